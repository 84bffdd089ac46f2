"""What holds for tasks of a workflow that say nothing themselves, whichever way their run starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.errors import GraphError
from engine.model.graph import MAX_LIMITS, Limit, TaskSpec
from engine.model.records import Lease, Task
from engine.model.retry import Backoff, RetryPolicy
from engine.model.run_defaults import FunctionOptions, RunDefaults
from engine.model.schedules import ScheduleSpec
from engine.model.workflow_graph import graph_of, workflow_key
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from engine.operations import executions, functions, runs, schedules, tasks, workflows
from engine.store.claims import ClaimRequest
from engine.store.database import Database
from tests.factories import do, rows, running, session

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


def limited(database: Database) -> tuple[str, Lease]:
    """A running task of a workflow with a limit: the workflow's id, the lease."""
    flow = Workflow("limited", tasks=[WorkflowTask("a", kind="noop")], max_concurrent_task=2)
    [saved] = do(workflows.save(database, [flow]))
    do(executions.execute(database, "limited"))
    wanted = ClaimRequest(session(database), "f" * 32, "default", ("noop",), 10)
    [lease], _ = do(tasks.claim_limited(database, wanted, "", actor="w"))
    return saved.id, lease


def limits_of(database: Database, task_id: int) -> list[str]:
    [row] = rows(database, "SELECT limit_keys FROM task_state WHERE task_id = :id", id=task_id)
    return sorted(row.limit_keys.split("\n"))


def test_the_limit_of_the_workflow_is_none_of_those_that_an_added_task_may_have(database: Database) -> None:
    workflow_id, lease = limited(database)
    own = [Limit(f"own {number}", 1) for number in range(MAX_LIMITS)]
    [added] = do(tasks.spawn(database, lease, [TaskSpec("b", "noop", limits=tuple(own))], actor="w"))
    assert limits_of(database, added) == [*(each.key for each in own), workflow_key(workflow_id)]
    more = TaskSpec("c", "noop", limits=(*own, Limit("another", 1)))
    with pytest.raises(GraphError, match="has 9 limits, at most 8 are possible"):
        do(tasks.spawn(database, lease, [more], actor="w"))


def test_an_added_task_may_name_the_limit_of_the_workflow_but_not_change_it(database: Database) -> None:
    workflow_id, lease = limited(database)
    key = workflow_key(workflow_id)
    named = TaskSpec("b", "noop", limits=(Limit(key, 7), Limit("own", 1)))
    [added] = do(tasks.spawn(database, lease, [named], actor="w"))
    assert limits_of(database, added) == ["own", key]
    [row] = rows(database, "SELECT at_most FROM concurrency_limit WHERE key = :key", key=key)
    assert row.at_most == 2


@pytest.mark.parametrize("mode", ["one_shot", "continuous", "event_driven"])
def test_an_added_stream_without_an_end_is_neither_ended_nor_given_up(database: Database, mode: str) -> None:
    _, lease = limited(database)
    params = {"mode": mode, "function": "f"}
    specs = [TaskSpec("b", "realtime", params), TaskSpec("c", "realtime", params, timeout_ms=9)]
    do(tasks.spawn(database, lease, specs, actor="w"))
    _, first, second = do(runs.tasks(database, lease.run_id))
    ends = mode == "one_shot"
    assert (first.timeout_ms, second.timeout_ms) == (70_000 if ends else None, 9)
    assert {each.retry.max_crashes for each in (first, second)} == {3 if ends else 2**31 - 1}


def test_a_stream_that_a_task_of_no_workflow_adds_is_not_given_up_either(database: Database) -> None:
    _, leases = running(database)
    stream = TaskSpec("b", "realtime", {"mode": "continuous", "function": "f"})
    do(tasks.spawn(database, leases["a"], [stream, TaskSpec("c", "noop")], actor="w"))
    _, first, second = do(runs.tasks(database, leases["a"].run_id))
    assert (first.timeout_ms, second.timeout_ms) == (None, None)
    assert (first.retry.max_crashes, second.retry.max_crashes) == (2**31 - 1, 3)


# --- what functions say about tasks that call them


def described(name: str, **options: Any) -> dict[str, Any]:
    return {"name": name, "description": "", "origin": "tests", "params": None, "options": options or None}


SAYS = described(
    "says", timeout_ms=9_000, retry=RetryPolicy(4).to_json(), queue="slow", priority=7, limits={"gpu": 2}
)
WAITS = described("waits", retry=RetryPolicy(3, backoff=Backoff.FIXED, initial_ms=5, jitter=0).to_json())
CALLS = (
    WorkflowTask("silent", function="says", compensation=UndoFunction("waits")),
    WorkflowTask("waits", function="waits", compensation=UndoFunction("f")),
    WorkflowTask("nothing", function="f"),
    WorkflowTask("own", function="says", timeout_ms=5_000, retry_count=0, queue="default", priority=0),
    WorkflowTask("every", function="waits", retry_interval_ms=9),
)


@pytest.mark.parametrize("start", [executed, rerun, triggered, fired])
def test_functions_say_what_their_tasks_do_not(database: Database, start: Callable[[Database], int]) -> None:
    do(functions.register(database, [SAYS, WAITS]))
    do(workflows.save(database, [Workflow("flow", tasks=CALLS)]))
    found: dict[str, Task] = {task.name: task for task in do(runs.tasks(database, start(database)))}
    seen = {name: (task.timeout_ms, task.queue, task.priority) for name, task in found.items()}
    assert seen == {
        "silent": (9_000, "slow", 7),
        "waits": (70_000, "default", 0),
        "nothing": (70_000, "default", 0),
        "own": (5_000, "default", 0),
        "every": (70_000, "default", 0),
    }
    fixed = RetryPolicy(3, backoff=Backoff.FIXED, initial_ms=5, jitter=0)
    usual = RetryPolicy(4, initial_ms=300, max_ms=500, jitter=0)
    assert {name: task.retry for name, task in found.items()} == {
        "silent": usual,
        "waits": fixed,
        "nothing": replace(usual, max_attempts=3),
        "own": RetryPolicy(),
        "every": RetryPolicy(3, backoff=Backoff.FIXED, initial_ms=9, max_ms=9, jitter=0),
    }


def test_functions_that_undo_have_a_word_of_their_own() -> None:
    options = {each["name"]: FunctionOptions.from_json(each["options"]) for each in (SAYS, WAITS)}
    graph = graph_of(Workflow("flow", tasks=CALLS), defaults=DEFAULTS, options=options)
    undo = {task.name: task.compensation for task in graph.tasks if task.compensation is not None}
    waits = options["waits"].retry
    assert {name: (each.timeout_ms, each.retry) for name, each in undo.items()} == {
        "silent": (9_000, waits),
        "waits": (70_000, waits),
    }


def test_a_limit_of_a_function_holds_unless_the_task_has_some() -> None:
    options = {"says": FunctionOptions.from_json(SAYS["options"])}
    tasks = [WorkflowTask("a", function="says"), WorkflowTask("b", function="says", limits={"own": 1})]
    graph = graph_of(Workflow("flow", tasks=tasks), options=options)
    assert [task.limits for task in graph.tasks] == [(Limit("gpu", 2),), (Limit("own", 1),)]


def test_the_newest_word_about_a_function_counts(database: Database) -> None:
    do(workflows.save(database, [Workflow("flow", tasks=[WorkflowTask("a", function="f")])]))
    for options, seen in (({"timeout_ms": 1_000}, 1_000), ({"timeout_ms": 2_000}, 2_000), ({}, 70_000)):
        do(functions.register(database, [described("f", **options)]))
        [task] = do(runs.tasks(database, executed(database)))
        assert task.timeout_ms == seen
