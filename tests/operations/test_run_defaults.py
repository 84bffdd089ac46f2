"""What holds for tasks of a workflow that say nothing themselves, whichever way their run starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from engine.model.records import Task
from engine.model.run_defaults import RunDefaults
from engine.model.schedules import ScheduleSpec
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from engine.operations import executions, functions, runs, schedules, workflows
from engine.store.database import Database
from tests.factories import do

DEFAULTS = RunDefaults(timeout_ms=70_000, retry_count=2, retry_delay_ms=300, max_retry_delay_ms=500)
TASKS = (
    WorkflowTask("plain", kind="noop"),
    WorkflowTask("own", kind="noop", timeout_ms=5_000, retry_count=1, retry_interval_ms=9),
    WorkflowTask("undone", function="f", compensation=UndoFunction("f")),
)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A process that has its own defaults."""
    database = Database(database_url, wake_others=False, run_defaults=DEFAULTS)
    described = [{"name": "f", "description": "", "origin": "tests", "params": None}]
    do(functions.register(database, described))
    do(workflows.save(database, [Workflow("flow", tasks=TASKS)]))
    yield database
    database.close()


def executed(database: Database) -> int:
    return do(executions.execute(database, "flow")).run_id


def rerun(database: Database) -> int:
    return do(executions.rerun(database, executed(database))).run_id


def triggered(database: Database) -> int:
    schedule = do(schedules.create(database, "flow", ScheduleSpec("hourly", "0 * * * *")))
    return do(schedules.trigger(database, schedule.id)).run_id


def fired(database: Database) -> int:
    schedule = do(schedules.create(database, "flow", ScheduleSpec("hourly", "0 * * * *")))
    nominal = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    database.run_sync(lambda tx: schedules.store.set_(tx, schedule.id, next_at=nominal))
    assert do(schedules.tick(database)).started == 1
    [firing] = do(schedules.firings(database, schedule.id))
    assert firing.run_id is not None
    return firing.run_id


@pytest.mark.parametrize("start", [executed, rerun, triggered, fired])
def test_tasks_that_say_nothing_get_the_defaults_of_the_process(
    database: Database, start: Callable[[Database], int]
) -> None:
    found: dict[str, Task] = {task.name: task for task in do(runs.tasks(database, start(database)))}
    for name in ("plain", "undone"):
        assert (found[name].timeout_ms, found[name].retry.max_attempts) == (70_000, 3)
        assert [found[name].retry.delay_ms(n) for n in (1, 2)] == [300, 500]
    own = found["own"]
    assert (own.timeout_ms, own.retry.max_attempts, own.retry.delay_ms(1)) == (5_000, 2, 9)
