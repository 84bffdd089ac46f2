"""Limits by key: how many tasks run at once, whoever claims and whoever dies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.errors import GraphError
from engine.model.graph import Graph, Limit
from engine.model.outcomes import Succeeded
from engine.model.records import Lease
from engine.operations import tasks, workers
from engine.store.database import Database
from tests.factories import claim, do, finish, request, rows, session, spec, submit


def claim_limited(database: Database, session_id: int, limit: int = 100, **fields: Any) -> list[Lease]:
    asked = request(session_id, limit, **fields)
    return do(tasks.claim_limited(database, asked, "", actor=f"worker:{session_id}"))[0]


def limited(count: int, *limits: Limit, prefix: str = "t", **fields: Any) -> Graph:
    return Graph(tuple(spec(f"{prefix}{number}", limits=limits, **fields) for number in range(count)))


def test_no_more_than_the_limit_run(database: Database) -> None:
    submit(database, limited(10, Limit("api", 3)))
    worker = session(database)
    assert claim(database, worker) == []  # they are claimed apart from the others
    first = claim_limited(database, worker)
    assert [lease.name for lease in first] == ["t0", "t1", "t2"]
    assert claim_limited(database, worker) == []
    finish(database, (first[1], Succeeded()))
    assert [lease.name for lease in claim_limited(database, worker)] == ["t3"]


def test_a_task_needs_room_under_each_of_its_keys(database: Database) -> None:
    submit(database, limited(5, Limit("engine", 3), Limit("customer-1", 1), prefix="one-"))
    submit(database, limited(5, Limit("engine", 3), Limit("customer-2", 1), prefix="two-"))
    submit(database, limited(5, Limit("engine", 3), prefix="free-"))
    submit(database, limited(5, Limit("engine", 3), Limit("customer-3", 1), prefix="three-"))
    names = [lease.name for lease in claim_limited(database, session(database))]
    assert names == ["one-0", "two-0", "free-0"]


def test_a_full_key_does_not_hold_up_others(database: Database) -> None:
    submit(database, limited(300, Limit("full", 1), prefix="full-"))
    submit(database, limited(2, Limit("other", 2), prefix="other-"))
    worker = session(database)
    assert {lease.name for lease in claim_limited(database, worker, limit=3)} == {
        "full-0",
        "other-0",
        "other-1",
    }


def test_the_queue_and_its_order_are_kept(database: Database) -> None:
    submit(database, limited(2, Limit("k", 9), prefix="low-", priority=-5))
    submit(database, limited(2, Limit("k", 9), prefix="high-", priority=5))
    submit(database, limited(2, Limit("k", 9), prefix="else-", queue="else"))
    worker = session(database)
    assert [lease.name for lease in claim_limited(database, worker)] == ["high-0", "high-1", "low-0", "low-1"]
    assert claim_limited(database, worker, kinds=("another",), queue="else") == []
    assert len(claim_limited(database, worker, queue="else")) == 2


def test_the_newest_limit_counts(database: Database) -> None:
    submit(database, limited(2, Limit("k", 1)))
    submit(database, limited(4, Limit("k", 4), prefix="later-"))
    assert len(claim_limited(database, session(database))) == 4


def test_the_slots_of_a_lost_worker_are_free_again(database: Database) -> None:
    submit(database, limited(4, Limit("k", 2)))
    lost = session(database)
    assert len(claim_limited(database, lost)) == 2
    do(workers.end(database, lost, "worker lost"))
    assert len(claim_limited(database, session(database))) == 2
    assert claim_limited(database, lost) == []  # who has ended gets nothing


def test_claims_at_the_same_time_share_one_count(row_locking: Database) -> None:
    queues = [f"q{number}" for number in range(8)]
    for queue in queues:
        submit(row_locking, limited(20, Limit("k", 7), queue=queue))
    worker = session(row_locking)

    def ask(queue: str) -> list[Lease]:
        return claim_limited(row_locking, worker, 5, queue=queue)

    with ThreadPoolExecutor(len(queues)) as pool:
        found = [lease for leases in pool.map(ask, queues) for lease in leases]
    running = rows(row_locking, "SELECT count(*) AS n FROM task_state WHERE state = 'running'")[0].n
    assert running == len(found) == 7


def test_released_children_with_a_limit_are_not_handed_over(database: Database) -> None:
    submit(
        database,
        Graph((spec("a"), spec("b", "a", limits=(Limit("k", 1),)), spec("c", "a", limits=(Limit("k", 1),)))),
    )
    worker = session(database)
    [a] = claim(database, worker)
    _, claimed, _ = do(
        tasks.finish_and_claim(
            database, [(a, Succeeded())], request(worker, 10, room=10), actor=f"worker:{worker}"
        )
    )
    assert claimed == []
    assert [lease.name for lease in claim_limited(database, worker)] == ["b"]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ((Limit("k", 0),), 'limit "k" of task "a": 0 is outside 1 to 1000000'),
        ((Limit("", 1),), 'limit of task "a" is required'),
        ((Limit("k", 1), Limit("k", 2)), 'task "a" names the same limit twice'),
        (tuple(Limit(str(i), 1) for i in range(9)), 'task "a" has 9 limits, at most 8 are possible'),
        ((Limit("a\nb", 1),), "which is not printable"),
    ],
)
def test_limits_that_make_no_sense_are_refused(database: Database, limits: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        submit(database, Graph((spec("a", limits=limits),)))
