"""A process killed at each boundary between us and the database leaves whole transactions behind, or none."""

from __future__ import annotations

import pytest

from engine.model.outcomes import Succeeded
from engine.operations import workers
from engine.store.database import Database
from tests.crash import invariants
from tests.crash.nursery import Nursery
from tests.factories import claim, do, finish, make_due, rows, session

SAMPLE = 19  # boundaries from one kill to the next in the normal suite


@pytest.mark.slow
def test_killed_at_a_sample_of_boundaries(database: Database, database_url: str, nursery: Nursery) -> None:
    assert kill_at_every(database, database_url, nursery, SAMPLE) > 200


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_killed_at_every_boundary(database: Database, database_url: str, nursery: Nursery) -> None:
    assert kill_at_every(database, database_url, nursery, 1) > 200


def kill_at_every(database: Database, url: str, nursery: Nursery, step: int) -> int:
    """Returns how many boundaries there are."""
    number = 1
    while (count := nursery.kill_at(url, number, "all")) is None:
        invariants.check(database, f"killed at boundary {number}")
        number += step
    invariants.check(database, "at the end of the scenario")
    _come_to_an_end(database)
    return count


def _come_to_an_end(database: Database) -> None:
    """Whatever the dead left behind, the living finish: sessions expire, and every run ends."""
    for seen in do(workers.live(database)):
        do(workers.expire(database, seen, 0))
    for ended in do(workers.sessions_to_clear(database)):
        do(workers.clear(database, ended, 0))
    invariants.check(database, "after the sweep")
    make_due(database)
    one = session(database)
    for queue in do(workers.queue_names(database)):
        while leases := claim(database, one, queue=queue):
            finish(database, *((lease, Succeeded()) for lease in leases))
    invariants.check(database, "after all has run")
    left = rows(database, "SELECT id, state FROM run WHERE state NOT IN ('succeeded', 'failed', 'cancelled')")
    assert {row.state for row in left} <= {"paused"}, left
