"""Schedulers that are killed again and again: each nominal time starts one run, none is left out."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from typing import Any

import pytest

from engine.model.schedules import CatchUp, ScheduleSpec
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import schedules, workflows
from engine.store.database import Database
from tests.factories import do, rows

_PROCESSES = 3
_KILLS = 60
_EXPRESSIONS = ("* * * * * *", "*/2 * * * * *", "@every 1s", "@every 3s")
_SCHEDULER = """
import asyncio, sys
from engine.store.database import Database
from engine.worker.scheduler import Scheduler
asyncio.run(Scheduler(Database(sys.argv[1], wake_others=False)).run())
"""


def start(url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _SCHEDULER, url])


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_three_schedulers_killed_at_random_fire_each_time_once(database: Database, database_url: str) -> None:
    do(workflows.save(database, [Workflow("w", tasks=[WorkflowTask("a", kind="noop")])]))
    made = [
        do(
            schedules.create(
                database,
                "w",
                ScheduleSpec(expression, expression, catch_up=CatchUp.ALL, catch_up_limit=1_000),
            )
        )
        for expression in _EXPRESSIONS
    ]
    dice = random.Random(seed := random.randrange(10**9))
    print("seed", seed)
    living = [start(database_url) for _ in range(_PROCESSES)]
    try:
        for _ in range(_KILLS):
            time.sleep(dice.uniform(0.1, 1.0))  # they live this long: starting takes about as much
            victim = dice.randrange(_PROCESSES)
            living[victim].send_signal(signal.SIGKILL)
            living[victim].wait()
            living[victim] = start(database_url)
    finally:
        for process in living:
            process.kill()
            process.wait()
    while do(schedules.tick(database)).started:
        pass
    for schedule in made:
        check(database, schedule.id, schedule.next_at, _step(schedule.expression))
    started = rows(database, "SELECT count(*) AS n FROM firing")[0].n
    assert rows(database, "SELECT count(*) AS n FROM run")[0].n == started
    print(f"{started} firings of {len(made)} schedules, {_KILLS} kills, pid {os.getpid()}")


def _step(expression: str) -> timedelta:
    """What is between two nominal times: told here, not by what is tested."""
    return timedelta(
        seconds={"* * * * * *": 1, "*/2 * * * * *": 2, "@every 1s": 1, "@every 3s": 3}[expression]
    )


def check(database: Database, schedule_id: str, first: Any, step: timedelta) -> None:
    found = sorted(
        (firing.nominal_at, firing.outcome, firing.run_id)
        for firing in do(schedules.firings(database, schedule_id, limit=100_000))
    )
    assert [nominal for nominal, _, _ in found] == [first + number * step for number in range(len(found))]
    assert {outcome for _, outcome, _ in found} == {"started"}
    assert len({run_id for _, _, run_id in found}) == len(found)
