"""The main promise: nothing is lost, doubled or out of order, whoever dies."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from engine.worker.guardian import boot_time
from engine.worker.options import WorkerOptions
from tests.chaos.oracle import Look, Report, judge, read_ledger
from tests.chaos.rig import Faults, Pool, descriptors, pool, random_graph, submit_graph, wait_until
from tests.support.postgres import Cluster

_CONNECTIONS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


def storm(
    url: str,
    folder: Path,
    *,
    tasks: int,
    processes: int,
    kill_seconds: float,
    server: Cluster | None = None,
    server_at: tuple[float, ...] = (),
    limit_seconds: float = 600.0,
) -> tuple[Report, Faults]:
    """Work a random graph while its workers, and at `server_at` its server, are killed."""
    seed = random.randrange(2**32)
    print(f"\nseed {seed}")
    submit_graph(url, random_graph(tasks, seed))
    look = Look(url)
    options = WorkerOptions(concurrency=2)  # with the lease of twenty seconds
    with pool(url, folder, processes=processes, options=options) as worked:
        faults = Faults(look, worked, seed)
        wait_until(lambda: len(look.holders()) == processes, what="all at work")
        before = descriptors(worked.supervisor.pid)
        began = time.monotonic()
        next_kill, at = began + kill_seconds, list(server_at)
        while not look.is_over():
            assert time.monotonic() - began < limit_seconds, "it does not end"
            if at and time.monotonic() - began > at[0]:
                at.pop(0)
                assert server is not None
                server.kill()
                server.start()
                faults.server_ready.append(boot_time())
            if time.monotonic() > next_kill:
                faults.kill_one()
                next_kill += kill_seconds
            time.sleep(0.1)
        wait_until(lambda: len(worked.workers()) == processes, what="all processes replaced")
        check_descriptors(worked, before)
    if server is not None:
        wait_until(lambda: look.one(_CONNECTIONS) == 0, what="all connections closed")
    report = judge(look, worked.ledger, killed=faults.killed, tasks=tasks)
    starts = [body.start for body in read_ledger(worked.ledger)]
    resumed = [min(start for start in starts if start > ready) - ready for ready in faults.server_ready]
    print(f"{report}; {len(faults.killed)} kills, {len(resumed)} server kills, then first start after "
          f"{[round(seconds, 2) for seconds in resumed]} s")  # fmt: skip
    assert not report.wrong, "\n".join(report.wrong)
    assert max(resumed, default=0) < 5
    return report, faults


def check_descriptors(worked: Pool, before: int) -> None:
    wait_until(lambda: descriptors(worked.supervisor.pid) <= before, what="no descriptor leaks")
    for process in worked.workers():
        assert process.num_fds() < 60


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_5000_tasks_while_workers_and_the_server_are_killed(
    postgres_url: str, durable: Cluster, tmp_path: Path
) -> None:
    own = len(os.listdir("/dev/fd"))
    report, faults = storm(
        postgres_url,
        tmp_path,
        tasks=5000,
        processes=8,
        kill_seconds=2.0,
        server=durable,
        server_at=(20.0, 45.0),
    )
    assert report.seconds >= 60 and len(faults.killed) >= 25
    assert len(os.listdir("/dev/fd")) <= own


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_5000_tasks_in_a_shared_file_while_workers_are_killed(sqlite_url: str, tmp_path: Path) -> None:
    report, faults = storm(
        sqlite_url, tmp_path, tasks=5000, processes=8, kill_seconds=2.0, limit_seconds=1000
    )
    assert report.seconds >= 60 and len(faults.killed) >= 25
    assert Look(sqlite_url).one("PRAGMA integrity_check") == "ok"


@pytest.mark.slow
def test_tasks_while_workers_and_the_server_are_killed(
    postgres_url: str, durable: Cluster, tmp_path: Path
) -> None:
    _, faults = storm(
        postgres_url, tmp_path, tasks=300, processes=3, kill_seconds=1.5, server=durable, server_at=(6.0,)
    )
    assert len(faults.killed) >= 5 and faults.server_ready


@pytest.mark.slow
def test_tasks_in_a_shared_file_while_workers_are_killed(sqlite_url: str, tmp_path: Path) -> None:
    _, faults = storm(sqlite_url, tmp_path, tasks=200, processes=3, kill_seconds=1.5)
    assert len(faults.killed) >= 3
    assert Look(sqlite_url).one("PRAGMA integrity_check") == "ok"
