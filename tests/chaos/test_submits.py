"""Clients that are killed, and answers that are lost: each key is one run."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.chaos.oracle import Look, judge
from tests.chaos.proxy import LossyProxy
from tests.chaos.rig import SHORT, pool, random_graph, submit_graph, wait_until
from tests.support.postgres import Cluster

CLIENTS, KEYS = 4, 60  # each


def start(url: str, client: int, folder: Path) -> subprocess.Popen[bytes]:
    first, last = str(client * KEYS), str((client + 1) * KEYS)
    command = [sys.executable, "-m", "tests.chaos.submitter", url, first, last, str(folder / f"acks{client}")]
    return subprocess.Popen(command)


def check(look: Look, folder: Path) -> None:
    """O1 and O2: each key is one whole run, and the one that was acknowledged."""
    assert look.one("SELECT count(*) FROM run") == CLIENTS * KEYS
    assert look("SELECT DISTINCT total FROM run") == [(3,)]
    assert look.one("SELECT count(*) FROM task") == look.one("SELECT count(*) FROM task_state") == 720
    assert look.one("SELECT count(*) FROM edge") == CLIENTS * KEYS
    of_key = dict(look("SELECT key, run_id FROM idempotency_key"))
    files = [folder / f"acks{client}" for client in range(CLIENTS)]
    acks = [line.split() for file in files for line in file.read_text().splitlines()]
    assert len(acks) == CLIENTS * KEYS
    assert all(of_key[key] == int(run) for key, run in acks)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_submitters_killed_at_random_make_each_run_once(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    dice = random.Random()
    clients = {number: start(url, number, tmp_path) for number in range(CLIENTS)}
    kills = 0
    while clients:
        time.sleep(dice.uniform(0.1, 0.3))
        for number, process in list(clients.items()):
            if process.poll() == 0:
                del clients[number]
            elif process.poll() is not None:
                clients[number] = start(url, number, tmp_path)
        if clients and kills < 60 and any((tmp_path / f"acks{number}").exists() for number in clients):
            dice.choice(list(clients.values())).kill()
            kills += 1
    print(f"\n{kills} kills")
    check(Look(url), tmp_path)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_lost_commit_answers_double_nothing(postgres_url: str, durable: Cluster, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    assert durable.listen is not None
    with LossyProxy(durable.listen, durable.port, probability=0.2, seed=seed) as proxy:
        lossy = str(sa.make_url(postgres_url).set(host="127.0.0.1", port=proxy.port, query={}))
        clients = [start(lossy, number, tmp_path) for number in range(CLIENTS)]
        for process in clients:
            assert process.wait(120) == 0
        check(Look(postgres_url), tmp_path)
        submitting = proxy.cuts

        submit_graph(postgres_url, random_graph(400, seed, ms=(5, 60), failing=0.05))
        look = Look(postgres_url)
        with pool(lossy, tmp_path, processes=3, options=SHORT) as worked:
            mine = "SELECT count(*) FROM run WHERE name = 'random 400' AND finished_at IS NULL"
            wait_until(lambda: look.one(mine) == 0, 200)
            assert not worked.logged("worker.process_died")
            adopted = sum(event["tasks"] for event in worked.logged("worker.claim_adopted"))
            proxy.probability = 0.0  # sign off in peace
        cuts = proxy.cuts - submitting
    # What the submitters left is not for these workers: remove it, so that the oracle sees one run.
    for table, column in (("edge", "parent_id"), ("task_state", "task_id"), ("task", "id")):
        look_away = f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM task WHERE kind = 'none')"
        Look(postgres_url).do(look_away)
    Look(postgres_url).do("DELETE FROM event WHERE run_id IN (SELECT id FROM run WHERE name <> 'random 400')")
    Look(postgres_url).do("DELETE FROM run WHERE name <> 'random 400'")
    report = judge(look, worked.ledger, tasks=400)
    print(
        f"\nseed {seed}: {submitting} answers to submitters and {cuts} to workers lost, "
        f"{adopted} tasks adopted; {report}"
    )
    assert not report.wrong, "\n".join(report.wrong)
    assert report.repeats == 0 and report.late == 0 and cuts > 50 and adopted > 0
