"""What the main operations cost a database, in numbers that are the same on every machine.

A number that falls is an improvement: record it. One that rises has to be explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from engine.model.graph import Graph
from engine.model.outcomes import Failed, Succeeded
from engine.operations import submits, tasks
from engine.store.claims import claim as claim_within
from engine.store.database import Database
from tests.factories import claim, claim_all, do, finish, request, session, spec, submit

SIZE = 200
ACTOR = "worker:1"
_AROUND = ("BEGIN", "COMMIT", "DISCARD")  # not counted: they begin and end transactions
_ROWS = """
SELECT sum(n_tup_ins + n_tup_upd + n_tup_del), sum(n_tup_upd - n_tup_hot_upd),
  sum(seq_tup_read + coalesce(idx_tup_fetch, 0))
FROM pg_stat_xact_user_tables"""  # also of earlier transactions of the session, not reported yet


@dataclass(frozen=True, slots=True)
class Cost:
    """Rows are counted by Postgres only, and not where one statement is a transaction by itself."""

    statements: int
    written: int = 0
    moved: int = 0  # new versions of rows that had to go into the indexes as well
    read: int = 0


def cost_of(database: Database, operation: Callable[[], Any]) -> Cost:
    statements = 0
    rows = [0, 0, 0]

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal statements
        statements += not statement.startswith(_AROUND)
        if database.dialect.locks_rows and statement.startswith(("BEGIN", "COMMIT")):
            with cursor.connection.cursor() as asking:
                found = asking.execute(_ROWS).fetchone()
            sign = -1 if statement.startswith("BEGIN") else 1
            rows[:] = [before + sign * int(more or 0) for before, more in zip(rows, found, strict=True)]

    sa.event.listen(database.engine, "before_cursor_execute", count)
    try:
        operation()
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", count)
    return Cost(statements, *rows)


def unrelated(size: int = SIZE) -> Graph:
    return Graph(tuple(spec(f"t{number}") for number in range(size)))


def paired() -> Graph:
    """Each of the first half is what one of the second waits for."""
    half = SIZE // 2
    upstream = [spec(f"t{number}") for number in range(half)]
    return Graph((*upstream, *(spec(f"d{number}", f"t{number}") for number in range(half))))


def claims(database: Database) -> Cost:
    submit(database, unrelated())
    one = session(database)
    asked = request(one, SIZE)  # read within the transaction, so that there is a COMMIT to count before
    return cost_of(database, lambda: database.run_sync(lambda tx: claim_within(tx, asked).read()))


def successes(database: Database) -> Cost:
    submit(database, unrelated(SIZE + 1))  # one stays, so that the run goes on
    leases = claim(database, session(database), SIZE)
    return cost_of(database, lambda: finish(database, *((lease, Succeeded({"n": 1})) for lease in leases)))


def releases(database: Database) -> Cost:
    submit(database, paired())
    leases = claim(database, session(database), SIZE)
    return cost_of(database, lambda: finish(database, *((lease, Succeeded()) for lease in leases)))


def failures(database: Database) -> Cost:
    submit(database, unrelated(SIZE + 1))
    leases = claim(database, session(database), SIZE)
    return cost_of(database, lambda: finish(database, *((lease, Failed("no")) for lease in leases)))


def link_of_a_chain(database: Database) -> Cost:
    submit(database, "a -> b -> c")
    one = session(database)
    leases = claim_all(database, one)
    ended = [(leases["a"], Succeeded())]
    return cost_of(database, lambda: do(tasks.finish_and_claim(database, ended, request(one), actor=ACTOR)))


def submit_of_one(database: Database) -> Cost:
    return cost_of(database, lambda: submit(database, "a", contract="c"))


def submit_of_a_graph(database: Database) -> Cost:
    return cost_of(database, lambda: submit(database, paired(), contract="c"))


def submit_of_many(database: Database) -> Cost:
    graphs = [unrelated(1)] * SIZE
    return cost_of(database, lambda: do(submits.submit_many(database, graphs)))


POSTGRES = {
    claims: Cost(1, written=404, moved=200, read=605),
    successes: Cost(2, written=604, moved=200, read=205),
    releases: Cost(2, written=504, moved=200, read=906),
    failures: Cost(6, written=604, moved=200, read=405),
    link_of_a_chain: Cost(2, written=10, moved=2, read=19),
    submit_of_one: Cost(1),
    submit_of_a_graph: Cost(1),
    submit_of_many: Cost(2, written=802, moved=0, read=3),
}
SQLITE = {
    claims: 6,
    successes: 7,
    releases: 9,
    failures: 8,
    link_of_a_chain: 11,
    submit_of_one: 9,
    submit_of_a_graph: 10,
    submit_of_many: 8,
}


@pytest.mark.parametrize("operation", POSTGRES, ids=lambda operation: operation.__name__)
def test_costs(database: Database, operation: Callable[[Database], Cost]) -> None:
    warm_up(database)
    cost = operation(database)
    if not database.dialect.locks_rows:
        assert cost.statements == SQLITE[operation]
        return
    most = POSTGRES[operation]
    assert (cost.statements, cost.written, cost.moved) == (most.statements, most.written, most.moved)
    assert cost.read <= 1.25 * most.read + 10  # the planner may choose


def warm_up(database: Database) -> None:
    """Blocks of ids are drawn, and there are runs to look past."""
    for _ in range(3):
        submit(database, unrelated(10))
    finish(database, *((lease, Succeeded()) for lease in claim(database, session(database))))
