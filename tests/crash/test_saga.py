"""A saga killed at each boundary leads to exactly the right compensations in the right order."""

from __future__ import annotations

import pytest

from engine.operations import workers
from engine.store.database import Database
from tests.crash import invariants, saga
from tests.crash.nursery import Nursery
from tests.factories import do, rows

SAMPLE = 23  # boundaries from one kill to the next in the normal suite


@pytest.mark.slow
def test_a_saga_killed_at_a_sample_of_boundaries(
    database: Database, database_url: str, nursery: Nursery
) -> None:
    assert kill_at_every(database, database_url, nursery, SAMPLE) > 100


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_saga_killed_at_every_boundary(database: Database, database_url: str, nursery: Nursery) -> None:
    assert kill_at_every(database, database_url, nursery, 1) > 100


def kill_at_every(database: Database, url: str, nursery: Nursery, step: int) -> int:
    """Returns how many boundaries there are."""
    number = 1
    while (count := nursery.kill_at(url, number, "saga")) is None:
        saga.check(database, f"killed at boundary {number}")
        number += step
    for seen in do(workers.live(database)):
        do(workers.expire(database, seen, 0))
    for ended in do(workers.sessions_to_clear(database)):
        do(workers.clear(database, ended, 0))
    saga.work(database)
    saga.check(database, "after all has run")
    invariants.check(database, "after all has run")
    left = rows(database, "SELECT id, state FROM run WHERE state NOT IN ('succeeded', 'failed')")
    assert not left
    undone = rows(database, "SELECT state FROM run WHERE name LIKE 'compensation of %'")
    assert undone and {row.state for row in undone} == {"succeeded"}
    return count
