"""Workers on machines of their own, poolers in between, and many processes at one file."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from engine.model.graph import Graph, TaskSpec
from engine.operations import runs, submits, tasks
from engine.store import migrate
from engine.store.database import Database
from engine.worker.guardian import boot_time
from tests.chaos.oracle import Look, judge
from tests.chaos.rig import SHORT, Faults, pool, random_graph, submit_graph, wait_until
from tests.support import netns
from tests.support.pgbouncer import PgBouncer
from tests.support.postgres import Cluster

pytestmark = pytest.mark.chaos


@pytest.mark.timeout(300)
def test_machines_share_nothing_but_the_database_and_one_is_cut_off(tmp_path: Path) -> None:
    reason = netns.available()
    if reason is not None:
        pytest.fail(reason)
    seed = random.randrange(2**32)
    with netns.Network() as network:
        home = network.add("db")
        first, second = network.add("w1"), network.add("w2")
        cluster = Cluster(durable=True, listen=home.address, within=home.command())
        try:
            url = cluster.create_database("chaos")
            engine = sa.create_engine(url)
            migrate.upgrade(engine)
            engine.dispose()
            submit_graph(url, random_graph(600, seed, ms=(20, 200)))
            look, remote = Look(url), cluster.tcp_url("chaos")
            one = pool(remote, tmp_path, processes=2, options=SHORT, within=first.command())
            two = pool(remote, tmp_path, processes=2, options=SHORT, within=second.command())
            with one as near, two:
                holders = wait_until(lambda: held if len(held := look.holders()) == 4 else None, 30)
                theirs = {process.pid for process in near.workers()}
                hit = [session for session, pid in holders if pid in theirs]
                assert len(hit) == 2
                first.cut()
                cut = boot_time()
                wait_until(lambda: boot_time() > cut + 3 * SHORT.lease_seconds)
                ended = "SELECT count(*) FROM worker_session WHERE end_reason = 'heartbeat lost'"
                assert look.one(ended) == 2
                first.heal()
                healed = boot_time()
                wait_until(look.is_over, 120)
                wait_until(lambda: len(near.logged("worker.registered_again")) == 2, 30)
                assert {process.pid for process in near.workers()} == theirs
            stopped = dict.fromkeys(hit, (cut, healed))
            report = judge(look, near.ledger, stopped=stopped, tasks=600, may_release=True)
        finally:
            cluster.close()
    print(f"\nseed {seed}: cut for {healed - cut:.1f} s; {report}")
    assert not report.wrong, "\n".join(report.wrong)
    assert max(report.recoveries) < SHORT.lease_seconds + 5


@pytest.mark.timeout(300)
def test_everything_is_the_same_through_a_pooler(durable: Cluster, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    found: dict[str, Any] = {}
    bouncer = PgBouncer(durable, pool_size=6)
    try:
        for way in ("direct", "pooled"):
            url = durable.create_database(way)
            engine = sa.create_engine(url)
            migrate.upgrade(engine)
            engine.dispose()
            used = bouncer.url(way) if way == "pooled" else url
            found[way] = scenario(url, used, tmp_path / way, seed)
        print(f"\nseed {seed}: {found['pooled'][1]}")
        assert found["direct"][0] == found["pooled"][0]
    finally:
        bouncer.close()
        durable.drop_database("direct")
        durable.drop_database("pooled")


def scenario(url: str, used: str, folder: Path, seed: int) -> tuple[Any, Any]:
    """Submit, claim, finish, pause, resume, cancel, kill: all through `used`, judged through `url`."""
    folder.mkdir()
    look = Look(url)
    database = Database(used, wake_others=False)
    with pool(used, folder, processes=3, options=SHORT, wake_others=False) as worked:
        main = asyncio.run(submits.submit(database, random_graph(300, seed, ms=(5, 50)))).run_id
        faults = Faults(look, worked, seed)
        wait_until(lambda: len(look.holders()) == 3)
        asyncio.run(runs.hold(database, main))
        wait_until(lambda: look.one(f"SELECT running FROM run WHERE id = {main}") == 0)
        before = look.one(f"SELECT count(*) FROM event WHERE run_id = {main} AND kind = 'started'")
        long = Graph(
            (TaskSpec("long", "ledger", {"ms": 60_000}), TaskSpec("never", "ledger", delay_ms=60_000))
        )
        other = asyncio.run(submits.submit(database, long))
        wait_until(lambda: look.one(f"SELECT running FROM run WHERE id = {other.run_id}") == 1)
        asyncio.run(runs.cancel(database, other.run_id))
        wait_until(lambda: look.one(f"SELECT state FROM run WHERE id = {other.run_id}") == "cancelled")
        assert before == look.one(f"SELECT count(*) FROM event WHERE run_id = {main} AND kind = 'started'")
        asyncio.run(runs.resume(database, main))
        for _ in range(3):
            wait_until(look.holders)
            faults.kill_one()
            wait_until(lambda: len(worked.workers()) == 3)
        wait_until(look.is_over, 100)
        states = Counter(task.state for task in asyncio.run(runs.tasks(database, main)))
        cancelled = [asyncio.run(tasks.get(database, one)).state for one in other.task_ids.values()]
    database.close()
    report = judge(look, worked.ledger, killed=faults.killed, runs=2, tasks=302)
    assert not report.wrong, "\n".join(report.wrong)
    return (states, cancelled, look.one(f"SELECT state FROM run WHERE id = {main}")), report


@pytest.mark.timeout(300)
def test_eight_processes_hammer_one_file(sqlite_url: str) -> None:
    command = [sys.executable, "-m", "tests.chaos.hammer", sqlite_url, "10"]
    writers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)
    ]
    answers = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 8, "\n".join(error for _, error in answers)
    commits = [int(answer) for answer, _ in answers]
    look = Look(sqlite_url)
    print(f"\n{sum(commits)} commits in 10 s, per process {sorted(commits)}")
    assert look.one("PRAGMA integrity_check") == "ok"
    assert look.one("SELECT count(*) FROM run") == sum(commits)
    assert min(commits) > max(commits) / 5
