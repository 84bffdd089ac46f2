"""Connections that end at the worst moments: no worker process has to be restarted for it."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg
import pytest

from tests.chaos.oracle import Look, judge
from tests.chaos.rig import SHORT, pool, random_graph, submit_graph, wait_until


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_backend_is_terminated_every_200_ms(postgres_url: str, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    submit_graph(postgres_url, random_graph(3000, seed, ms=(5, 50)))
    look, dice = Look(postgres_url), random.Random(seed)
    victims = (
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    done = "SELECT sum(succeeded) FROM run"
    ended = 0
    with pool(postgres_url, tmp_path, processes=3, options=SHORT) as worked:
        wait_until(lambda: len(look.holders()) == 3)
        processes = {process.pid for process in worked.workers()}
        before, began = look.one(done), time.monotonic()
        with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as killer:
            while time.monotonic() - began < 20 and not look.is_over():
                pids = [pid for (pid,) in killer.execute(victims).fetchall()]
                if pids:
                    killer.execute("SELECT pg_terminate_backend(%s)", (dice.choice(pids),))
                    ended += 1
                time.sleep(0.2)
        progress = look.one(done) - before
        wait_until(look.is_over, 120)
        assert {process.pid for process in worked.workers()} == processes
    report = judge(look, worked.ledger, tasks=3000)
    print(f"\nseed {seed}: {ended} backends ended, {progress} tasks done meanwhile; {report}")
    assert not report.wrong, "\n".join(report.wrong)
    assert progress > 100 and ended > 50
