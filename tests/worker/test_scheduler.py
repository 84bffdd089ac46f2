"""The scheduler of a worker: how soon it looks again."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from engine.model.outcomes import Succeeded
from engine.model.workflows import Callback, Workflow, WorkflowTask
from engine.operations import executions, functions, relays, workflows
from engine.store.database import Database
from engine.worker import scheduler
from tests.factories import claim, do, finish, session

FUNCTIONS = [{"name": name, "description": "", "origin": "tests", "params": None} for name in ("f", "page")]


def ended(database: Database, runs: int) -> None:
    """Runs whose events are to be looked at, although they concern nobody: they succeed."""
    do(functions.register(database, FUNCTIONS))
    task = WorkflowTask("only", function="f", callbacks=[Callback("failed", "page")])
    do(workflows.save(database, [Workflow("flow", tasks=[task])]))
    for _ in range(runs):
        do(executions.execute(database, "flow"))
    worker = session(database)
    finish(database, *((lease, Succeeded()) for lease in claim(database, worker, runs, kinds=("function",))))


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done between two looks at the clock takes 0.6 s."""
    clock = SimpleNamespace(monotonic=count(0, 0.6).__next__)
    monkeypatch.setattr(relays, "time", clock)
    monkeypatch.setattr(scheduler, "time", clock)


@pytest.mark.usefixtures("slowly")
def test_a_backlog_of_events_that_concern_nobody_is_gone_through_at_once(database: Database) -> None:
    ended(database, 9)
    looking, waits = scheduler.Scheduler(database), list[float]()
    while not waits or waits[-1] < 0.5:
        waits.append(do(looking._tick()))
        assert len(waits) < 20
    assert len(waits) > 2
    assert do(database.read(relays.store.to_do, 1)) == []


@pytest.mark.usefixtures("slowly")
def test_looks_that_find_nothing_are_rarer_the_longer_they_take(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, looks = scheduler.Scheduler(database), list[Any]()
    tick = relays.tick

    async def counted(*given: Any) -> relays.Tick:
        looks.append(given)
        return await tick(*given)

    monkeypatch.setattr(relays, "tick", counted)
    for _ in range(5):
        do(looking._tick())
    assert len(looks) == 1
