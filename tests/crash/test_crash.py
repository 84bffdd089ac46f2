"""A process killed at each boundary between us and the database leaves whole transactions behind, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.model.outcomes import Succeeded
from engine.operations import workers
from engine.store.database import Database
from tests.crash import invariants
from tests.crash.victim import KILLED
from tests.factories import claim, do, finish, make_due, rows, session

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = 19  # boundaries from one kill to the next in the normal suite


class Nursery:
    """Raises victims quickly."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.victim"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def kill_at(self, url: str, number: int) -> int | None:
        """None if the victim died at that boundary, else the number of boundaries that it passed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{url} {number}\n")
        self._process.stdin.flush()
        code, count = self._process.stdout.readline().split()
        assert int(code) in (0, KILLED), "the victim failed before it was killed"
        return None if int(code) == KILLED else int(count)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def test_killed_at_a_sample_of_boundaries(database: Database, database_url: str, nursery: Nursery) -> None:
    assert kill_at_every(database, database_url, nursery, SAMPLE) > 200


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_killed_at_every_boundary(database: Database, database_url: str, nursery: Nursery) -> None:
    assert kill_at_every(database, database_url, nursery, 1) > 200


def kill_at_every(database: Database, url: str, nursery: Nursery, step: int) -> int:
    """Returns how many boundaries there are."""
    number = 1
    while (count := nursery.kill_at(url, number)) is None:
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
