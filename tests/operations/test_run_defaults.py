"""What holds for tasks of a workflow that say nothing themselves, whichever way their run starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from engine.model.graph import Limit, TaskSpec
from engine.model.records import Task
from engine.model.run_defaults import RunDefaults
from engine.model.schedules import ScheduleSpec
from engine.model.workflow_graph import workflow_key
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from engine.operations import executions, functions, runs, schedules, tasks, workflows
from engine.store.claims import ClaimRequest
from engine.store.database import Database
from tests.factories import do, rows, session

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


def test_schedules_without_a_zone_have_that_of_the_process_which_keeps_them(database_url: str) -> None:
    defaults = RunDefaults(timezone="Asia/Tokyo")
    database = Database(database_url, wake_others=False, run_defaults=defaults)
    try:
        flow = Workflow("flow", tasks=TASKS[:1], cron="0 0 9 * * *")
        do(workflows.save(database, [flow, replace(flow, name="other", timezone="Europe/Berlin")]))
        do(schedules.create(database, "flow", ScheduleSpec("own", "0 * * * *", zone="UTC")))
        do(schedules.create(database, "flow", ScheduleSpec("none", "0 * * * *")))
        _, found = do(schedules.list_schedules(database))
    finally:
        database.close()
    assert {each.name: each.zone for each in found} == {
        "flow": "Asia/Tokyo",
        "other": "Europe/Berlin",
        "own": "UTC",
        "none": "Asia/Tokyo",
    }


def test_tasks_that_are_added_are_tasks_of_the_workflow(database: Database) -> None:
    """Its limit, the default timeout and its name hold for them."""
    first = WorkflowTask("a", kind="noop", limits={"own": 5})
    [saved] = do(workflows.save(database, [Workflow("limited", tasks=[first], max_concurrent_task=2)]))
    run_id = do(executions.execute(database, "limited")).run_id
    wanted = ClaimRequest(session(database), "f" * 32, "default", ("noop",), 10)
    [lease], _ = do(tasks.claim_limited(database, wanted, "", actor="w"))
    other = TaskSpec("c", "noop", timeout_ms=5, limits=(Limit("other", 1),))
    do(tasks.spawn(database, lease, [TaskSpec("b", "noop"), other, TaskSpec("d", "noop")], actor="w"))
    told = do(runs.tasks(database, run_id))
    assert [(task.name, task.timeout_ms) for task in told] == [
        ("a", 70_000),
        ("b", 70_000),
        ("c", 5),
        ("d", 70_000),
    ]
    assert [task.client for task in told] == [{"workflow_id": saved.id}] * 4
    key = workflow_key(saved.id)
    found = [
        row.limit_keys.split("\n")
        for row in rows(database, "SELECT limit_keys FROM task_state ORDER BY task_id")
    ]
    assert found == [["own", key], [key], ["other", key], [key]]
    leases, _ = do(tasks.claim_limited(database, wanted, "", actor="w"))
    assert len(leases) == 1  # of two, with the one that added them
