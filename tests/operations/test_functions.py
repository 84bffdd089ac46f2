"""Tasks whose functions only other workers have: whom they are left to, and how often."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from engine.model.graph import Graph
from engine.model.outcomes import Failed, Outcome, Released, elsewhere
from engine.model.retry import RetryPolicy
from engine.operations import functions, workers
from engine.store.database import Database
from tests.factories import claim, do, finish, make_due, session, spec, submit

CODE = "unknown_function"


def having(database: Database, *names: str, queues: Collection[str] = ()) -> int:
    """A live worker of these queues, all if none is named, that has code for these functions."""
    registration = workers.Registration("having", "host", 1, "0", list(queues), 10)
    session_id = do(workers.register(database, registration))
    described = [{"name": name, "description": "", "origin": "tests", "params": None} for name in names]
    do(functions.register(database, described, session_id))
    return session_id


def task_in(database: Database, queue: str) -> int:
    [task_id] = submit(database, Graph((spec("a", queue=queue),))).task_ids.values()
    return task_id


@pytest.mark.parametrize(
    ("queues", "counts"), [((), True), (("slow",), True), (("fast", "slow"), True), (("fast",), False)]
)
def test_a_worker_counts_that_takes_from_the_queue_of_the_task(
    database: Database, queues: Collection[str], counts: bool
) -> None:
    task_id = task_in(database, "slow")
    having(database, "f", queues=queues)
    assert do(functions.are_somewhere(database, ["f"], task_id)) is counts


def test_a_worker_counts_that_has_all_functions_and_lives(database: Database) -> None:
    task_id = task_in(database, "default")
    having(database, "f", "x")
    having(database, "g", "x")
    assert do(functions.are_somewhere(database, ["f", "x", "f"], task_id))
    assert not do(functions.are_somewhere(database, ["f", "g"], task_id))
    both = having(database, "f", "g")
    assert do(functions.are_somewhere(database, ["f", "g"], task_id))
    do(workers.end(database, both, "stopped"))
    assert not do(functions.are_somewhere(database, ["f", "g"], task_id))


def test_only_releases_for_the_same_reason_are_counted(database: Database) -> None:
    """A task that was drained many times asked for its function once a minute from the first time on."""
    worker = session(database)
    [task_id] = submit(
        database, Graph((spec("a", retry=RetryPolicy(max_attempts=9, initial_ms=0)),))
    ).task_ids.values()
    outcomes: list[Outcome] = [
        Released(),
        Released("gone", "source_lost"),
        Failed("no"),
        Released("unknown", CODE),
        Failed("unknown", code=CODE),
        Released("unknown", CODE, 60_000),
    ]
    counts = []
    for outcome in outcomes:
        [lease] = claim(database, worker)
        assert finish(database, (lease, outcome)) == []
        make_due(database)
        counts.append(do(functions.given_back(database, task_id, CODE)))
    assert counts == [0, 0, 0, 1, 1, 2]
    assert do(functions.given_back(database, task_id + 1, CODE)) == 0


def test_waits_double_up_to_a_minute() -> None:
    waits = [elsewhere(times, "unknown", CODE).delay_ms for times in (0, 1, 2, 7, 8, 12)]
    for wait, expected in zip(waits, (250, 500, 1_000, 32_000, 60_000, 60_000), strict=True):
        assert 0.9 * expected <= wait <= 1.1 * expected
