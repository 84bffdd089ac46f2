"""A worker that others took for dead wakes up: nothing it does counts any more."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import psutil
import pytest

from engine.model.graph import Graph, TaskSpec
from engine.operations import submits
from engine.store.database import Database
from engine.worker.guardian import boot_time
from engine.worker.options import WorkerOptions
from tests.chaos.oracle import Look, judge, read_ledger
from tests.chaos.rig import SHORT, pool, wait_until

DEFAULT = WorkerOptions(concurrency=4)


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        pytest.param(SHORT, 8.0, marks=pytest.mark.slow, id="short-lease"),
        pytest.param(DEFAULT, 25.0, marks=pytest.mark.chaos, id="default-lease"),
    ],
)
@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_a_stopped_worker_that_wakes_after_its_lease_changes_nothing(
    kind: str,
    options: WorkerOptions,
    seconds: float,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    tasks = options.concurrency
    database = Database(url, wake_others=False)
    # Short enough to be over when the worker wakes: their outcomes are there, and late.
    graph = Graph(tuple(TaskSpec(f"t{number}", "ledger", {"ms": 1500}) for number in range(tasks)))
    look = Look(url)
    with pool(url, tmp_path, options=options) as first, pool(url, tmp_path, options=options) as second:
        try:
            wait_until(lambda: look.one("SELECT count(*) FROM worker_session") == 2)
            asyncio.run(submits.submit(database, graph))
            # A worker that is stopped between claim and start has no outcome that could be late.
            wait_until(lambda: len(read_ledger(first.ledger)) == tasks)
            session, pid = look.holders()[0]
            held = look.one(f"SELECT count(*) FROM task_state WHERE session_id = {session}")
            stopped = boot_time()
            psutil.Process(pid).send_signal(signal.SIGSTOP)
            wait_until(look.is_over, seconds + 10)
            over = boot_time()
            psutil.Process(pid).send_signal(signal.SIGCONT)
            woken = boot_time()
            wait_until(lambda: look.late() == held, 20, "late outcomes counted")
            if look.one(f"SELECT ended_at IS NULL FROM worker_session WHERE id = {session}"):
                raise AssertionError("its session was not ended")
            wait_until(lambda: len(look("SELECT id FROM worker_session WHERE ended_at IS NULL")) == 2, 20)
            owner = first if any(process.pid == pid for process in first.workers()) else second
            assert owner.logged("worker.registered_again")
            asyncio.run(submits.submit(database, Graph((TaskSpec("after", "ledger", {"ms": 1}),))))
            wait_until(look.is_over)
        finally:
            database.close()
    report = judge(look, first.ledger, stopped={session: (stopped, woken)}, runs=2, tasks=tasks + 1)
    print(f"\n{report}; over {over - stopped:.1f} s after the stop")
    assert not report.wrong, "\n".join(report.wrong)
    assert max(report.recoveries) < seconds
    assert report.late == held
