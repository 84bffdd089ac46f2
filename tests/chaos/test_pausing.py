"""Pausing under full load: once a pause was answered, no task of that run starts until it is resumed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.operations import runs, submits
from engine.store.database import Database
from engine.worker.options import WorkerOptions
from tests.chaos.oracle import Look
from tests.chaos.rig import pool, random_graph, wait_until
from tests.factories import do

_TASKS = 1_000  # of a run
_LEFT = 300  # with fewer to do the workers could be idle, and a pause would prove nothing
_OTHERS = 20  # tasks of other runs that start while one is paused: the workers are looking
_OPTIONS = WorkerOptions(concurrency=5, poll_seconds=0.2)


class Load:
    """Two runs at a time that keep the workers busy: one that is paused, and one beside it."""

    def __init__(self, url: str, seed: int) -> None:
        self.look = Look(url)
        self._database = Database(url)
        self._dice = random.Random(seed)
        self.runs = 0
        self.paused = self._submit()
        self.beside = self._submit()

    def _submit(self) -> int:
        """Chains, joins and failures: tasks become available in every way while their run is paused."""
        self.runs += 1
        drawn = random_graph(_TASKS, self._dice.randrange(2**32), ms=(2, 20))
        return do(submits.submit(self._database, drawn)).run_id

    def renew(self) -> None:
        """Let a run that is nearly over go on to its end, and take a new one in its place."""
        if self._left(self.paused) < _LEFT:
            self.paused = self._submit()
        if self._left(self.beside) < _LEFT:
            self.beside = self._submit()

    def _left(self, run_id: int) -> int:
        ended = "succeeded + failed + skipped + cancelled + running"
        return int(self.look.one(f"SELECT total - ({ended}) FROM run WHERE id = {run_id}"))

    def pause(self) -> None:
        assert do(runs.hold(self._database, self.paused)).state == "paused"

    def resume(self) -> None:
        do(runs.resume(self._database, self.paused))

    def started(self, run_id: int) -> int:
        """How many attempts have started, by what is written in the same transaction as each start."""
        query = f"SELECT count(*) FROM event WHERE run_id = {run_id} AND kind = 'started'"
        return int(self.look.one(query))

    def running(self, run_id: int) -> int:
        query = f"SELECT count(*) FROM task_state WHERE run_id = {run_id} AND state = 'running'"
        return int(self.look.one(query))

    def close(self) -> None:
        self._database.close()


@contextmanager
def loaded(url: str, seed: int) -> Iterator[Load]:
    load = Load(url, seed)
    try:
        yield load
    finally:
        load.close()


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(20, marks=pytest.mark.slow, id="20-rounds"),
        pytest.param(1_000, marks=[pytest.mark.chaos, pytest.mark.timeout(3_600)], id="1000-rounds"),
    ],
)
@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_no_task_starts_after_a_pause_was_answered(
    kind: str, rounds: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    seed = random.randrange(2**32)
    in_flight, began = 0, time.monotonic()
    with loaded(url, seed) as load, pool(url, tmp_path, processes=2, options=_OPTIONS):
        for number in range(rounds):
            load.renew()
            in_flight += one_round(load, f"round {number}, seed {seed}")
    seconds = time.monotonic() - began
    print(f"\n{rounds} pauses in {seconds:.0f} s, {load.runs} runs, {in_flight} tasks in flight, seed {seed}")
    assert in_flight >= rounds / 2, "the workers had next to nothing to do"


def one_round(load: Load, where: str) -> int:
    """Pause, watch, resume. Returns how many tasks ran when the pause was answered."""
    before = load.started(load.paused)
    wait_until(lambda: load.started(load.paused) > before, what=f"{where}: it works")
    load.pause()
    counted, in_flight = load.started(load.paused), load.running(load.paused)
    others = load.started(load.beside)
    wait_until(lambda: load.running(load.paused) == 0, what=f"{where}: nothing runs any more")
    assert load.started(load.paused) == counted, where
    wait_until(lambda: load.started(load.beside) >= others + _OTHERS, what=f"{where}: the others go on")
    assert load.started(load.paused) == counted, where
    assert load.running(load.paused) == 0, where
    load.resume()
    return in_flight
