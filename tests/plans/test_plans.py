"""Each hot statement finds its rows through the index meant for it, and reads about as many as it needs.

The same bounds hold for a thousand tasks (always) and for a million (`-m chaos`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from engine.model.graph import Graph
from engine.model.outcomes import Failed, Succeeded
from engine.model.records import Lease
from engine.operations import runs, submits, tasks, workers
from engine.store import beat
from engine.store.database import Database
from engine.store.schema import claim_index, lease_index
from tests.factories import claim, do, finish, graph, request, rows, session, spec, submit, write
from tests.plans.plans import Plan, plans_of

BATCH = 50
LARGE = {"task", "task_state", "edge", "attempt", "event", "run", "alias", "task_log", "task_progress"}
QUEUE = "measured"

_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :size)"
_BASE = 1_000_000_000


def fill(database: Database, size: int) -> None:
    """`size` tasks of other runs in every state, as a long-lived database has them."""
    now = "2026-01-01 00:00:00.000000" + ("+00" if database.dialect.locks_rows else "")
    state = "CASE i % 5 WHEN 0 THEN 'available' WHEN 1 THEN 'running' WHEN 2 THEN 'blocked'"
    for statement in (
        "INSERT INTO run (id, state, actor, created_at, total)"
        f" {_NUMBERS} SELECT {_BASE} + i, 'running', 'x', '{now}', 10 FROM n WHERE i <= :size / 10 + 1",
        "INSERT INTO task (id, run_id, name, kind, created_at)"
        f" {_NUMBERS} SELECT {_BASE} + i, {_BASE} + i / 10 + 1, 't' || i, 'noop', '{now}' FROM n",
        "INSERT INTO task_state (task_id, run_id, state, queue, kind, rank, available_at, session_id, token,"
        " waiting_on, changed_at)"
        f" {_NUMBERS} SELECT {_BASE} + i, {_BASE} + i / 10 + 1, {state} ELSE 'succeeded' END, 'other',"
        f" 'noop', 0, '{now}', {_BASE} + i % 50, 'token', CASE WHEN i % 5 = 2 THEN 1 ELSE 0 END,"
        f" '{now}' FROM n",
        "INSERT INTO edge (parent_id, child_id)"
        f" {_NUMBERS} SELECT {_BASE} + i - 1, {_BASE} + i FROM n WHERE i % 5 = 2",
        "INSERT INTO attempt (task_id, number, started_at, finished_at, outcome)"
        f" {_NUMBERS} SELECT {_BASE} + i, 1, '{now}', '{now}', 'succeeded' FROM n WHERE i % 5 > 2",
        "INSERT INTO event (run_id, number, kind, at, actor)"
        f" {_NUMBERS} SELECT {_BASE} + i / 10 + 1, i % 10 + 1, 'started', '{now}', 'x' FROM n",
    ):
        write(database, statement, size=size)
    if database.dialect.locks_rows:  # where statistics are gathered by themselves
        write_alone(database, "ANALYZE")


def write_alone(database: Database, statement: str) -> None:
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(statement)
        driver.commit()


@pytest.fixture(params=[1_000, pytest.param(1_000_000, marks=[pytest.mark.chaos, pytest.mark.timeout(900)])])
def filled(request: pytest.FixtureRequest, database_url: str) -> Any:
    database = Database(database_url, wake_others=False)
    if request.param > 1_000 and database.dialect.locks_rows:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("SET statement_timeout = 0")
            connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
    fill(database, request.param)
    yield database
    database.close()


def queued(graph_: Graph) -> Graph:
    return Graph(tuple(replace(one, queue=QUEUE) for one in graph_.tasks))


def check(plans: list[Plan], batch: int = BATCH) -> None:
    """No table is read from end to end, and no statement reads much more than it has to.

    The constant is what a small table costs whichever way it is read.
    """
    for plan in plans:
        for scan in plan.scans:
            if scan.table in LARGE:
                assert not scan.is_whole, f"{scan}\n{plan.statement}\n{plan.text}"
                assert scan.rows <= 12 * batch + 1500, f"{scan}\n{plan.statement}\n{plan.text}"


def indexes(plans: list[Plan], start: str, table: str = "task_state") -> set[str | None]:
    """Through which indexes the statements that contain `start` came to `table`."""
    chosen = [plan for plan in plans if start in plan.statement]
    assert chosen, f"no statement with {start!r} in {[plan.statement[:60] for plan in plans]}"
    return {scan.index for plan in chosen for scan in plan.of(table)}


def by_key(database: Database, table: str = "task_state") -> str:
    """What a look-up by primary key is called."""
    return f"pk_{table}" if database.dialect.locks_rows else f"sqlite_autoindex_{table}_1"


def test_plans(filled: Database) -> None:
    """One database serves all: filling it is what takes time."""
    for part in (
        _claims,
        _finishes,
        _sessions,
        _leases,
        _submits_and_controls,
        _reads,
    ):
        part(filled)


def _claims(database: Database) -> None:
    one = session(database)
    many = Graph(tuple(spec(f"t{i}", queue=QUEUE) for i in range(2 * BATCH)))
    submit(database, many)
    reached: Any = None
    for after in (False, True):
        asked = request(one, BATCH, queue=QUEUE, after=reached if after else None)
        claimed: list[list[Lease]] = []
        plans = plans_of(database, partial(_append_claim, claimed, database, asked))
        assert len(claimed[0]) == BATCH
        reached = claimed[0][-1].place
        check(plans)
        used = indexes(plans, "UPDATE task_state")
        assert claim_index.name in used and used <= {claim_index.name, by_key(database)}, used
        assert indexes(plans, "task.params", "task") == {by_key(database, "task")}
        assert not any(
            "JOIN run" in plan.statement for plan in plans if "UPDATE task_state" in plan.statement
        )
    asked = request(one, BATCH, queue="empty")
    check(plans_of(database, partial(_append_claim, [], database, asked)), 0)


def _append_claim(claimed: list[list[Lease]], database: Database, asked: Any) -> None:
    claimed.append(do(tasks.claim(database, asked, actor="w")))


def _finishes(database: Database) -> None:
    one = session(database)
    pairs = [spec(f"p{i}") for i in range(BATCH)]
    pairs += [spec(f"c{i}", f"p{i}", f"p{(i + 1) % BATCH}") for i in range(BATCH)]
    pairs += [spec(f"g{i}", f"c{i}") for i in range(BATCH)]
    submit(database, queued(Graph(tuple(pairs))))
    for outcome in (Succeeded({"n": 1}), Failed("no")):
        leases = claim(database, one, BATCH, queue=QUEUE)
        assert len(leases) == BATCH
        ended = [(lease, outcome) for lease in leases]
        plans = plans_of(database, partial(finish, database, *ended))
        check(plans)
        assert indexes(plans, "UPDATE task_state") == {by_key(database)}
        if database.dialect.locks_rows:
            releasing = "AS family" if isinstance(outcome, Failed) else "released"
            assert indexes(plans, releasing) <= {by_key(database)}
            assert indexes(plans, releasing, "edge") == {"pk_edge"}
    submit(database, queued(graph("a -> b -> c -> d")))
    [lease] = claim(database, one, BATCH, queue=QUEUE)
    check(plans_of(database, lambda: finish(database, (lease, Failed("no")))))


def _sessions(database: Database) -> None:
    one = session(database)
    placeholder = "%s" if database.dialect.locks_rows else "?"
    statement = beat._BEAT.format(placeholder)
    plans = plans_of(
        database, lambda: database.run_sync(lambda tx: tx.plain.exec_driver_sql(statement, (one,)))
    )
    assert [scan.is_whole for plan in plans for scan in plan.of("worker_session")] == [False]
    submit(database, queued(graph("a; b")))
    claim(database, one, queue=QUEUE)
    plans = plans_of(database, lambda: do(workers.orders(database, one)))
    check(plans, 2)
    assert indexes(plans, "SELECT") == {lease_index.name}
    [seen] = [found for found in do(workers.live(database)) if found.id == one]
    check(plans_of(database, lambda: do(workers.expire(database, seen, 0))), 4)


def _leases(database: Database) -> None:
    submit(database, queued(graph("a; b")))
    leases = claim(database, session(database), queue=QUEUE)
    lines = [(lease.holder, 1, datetime.now(UTC), "log", "text") for lease in leases]
    check(plans_of(database, lambda: do(tasks.append_logs(database, lines))), 2)
    check(plans_of(database, lambda: do(tasks.report(database, leases[0], {"n": 1}))), 2)
    children = [spec("x", queue=QUEUE), spec("y", "x", queue=QUEUE)]
    check(plans_of(database, lambda: do(tasks.spawn(database, leases[0], children, actor="w"))), 4)


def _submits_and_controls(database: Database) -> None:
    text = "a -> b -> c; a -> d"
    key = submits.Key("s", datetime.now().isoformat(), "h")
    accepted: list[Any] = []
    check(
        plans_of(
            database, lambda: accepted.append(submit(database, queued(graph(text)), contract="c", key=key))
        )
    )
    run_id = accepted[0].run_id
    for operation in (runs.hold, runs.resume, runs.cancel, runs.retry, runs.cancel, runs.delete):
        check(plans_of(database, partial(_control, database, operation, run_id)), 8)
    task_id = submit(database, queued(graph(text))).task_ids["a"]
    check(plans_of(database, lambda: do(tasks.cancel(database, task_id))), 8)


def _control(database: Database, operation: Callable[..., Any], run_id: int) -> None:
    do(operation(database, run_id))


def _reads(database: Database) -> None:
    [some] = rows(database, f"SELECT id FROM run WHERE id = {_BASE + 3}")
    check(plans_of(database, lambda: do(runs.get(database, some.id))), 2)
    check(plans_of(database, lambda: do(runs.events(database, some.id, after=50))), 100)
    check(plans_of(database, lambda: do(runs.tasks(database, some.id, limit=20))), 100)
    check(plans_of(database, lambda: do(tasks.get(database, _BASE + 7))), 2)
    check(plans_of(database, lambda: do(tasks.get_by_name(database, some.id, "t25"))), 2)
    check(plans_of(database, lambda: do(runs.list_runs(database, before=_BASE + 50, limit=20))), 20)


def test_a_large_run_goes_along_its_edges_before_anything_is_known_about_the_tables(
    database: Database,
) -> None:
    """Many ways lead far down in a graph that has just been loaded; statistics come later."""
    size, ways = 300, 20
    below = [spec(f"t{i}", *(f"t{above}" for above in range(max(0, i - ways), i))) for i in range(size)]
    run_id = submit(database, queued(Graph(tuple(below)))).run_id
    [lease] = claim(database, session(database), queue=QUEUE)
    check(plans_of(database, partial(finish, database, (lease, Failed("no")))), size * ways // 2)
    controls: list[Callable[..., Any]] = [runs.retry, runs.cancel]
    for control in controls:
        check(plans_of(database, partial(_control, database, control, run_id)), size * ways // 2)


def test_what_waits_for_a_later_time_costs_a_claim_nothing(database: Database) -> None:
    """Counted by Postgres only, where the index is read one priority after the other."""
    later = datetime.now(UTC) + timedelta(days=1)
    one = session(database)
    asked = request(one, BATCH, queue=QUEUE)

    def pages() -> int:
        found = plans_of(database, lambda: do(tasks.claim(database, asked, actor="w")))
        return sum(plan.pages for plan in found)

    submit(database, queued(Graph((spec("a", available_at=later),))))
    few = pages()
    submit(database, queued(Graph(tuple(spec(f"t{n}", available_at=later) for n in range(5_000)))))
    assert pages() <= few + 10  # all of them: 50 pages
