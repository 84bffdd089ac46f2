"""What instances and their tasks are said to have come to, and why."""

from __future__ import annotations

from typing import Any

import pytest

from engine.definitions import from_yaml
from engine.executors.base import TaskContext
from engine.model.graph import TaskSpec
from engine.model.outcomes import Cancelled, Failed, Outcome, Succeeded
from engine.model.records import Lease
from engine.model.states import FINAL_RUN_STATES
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import executions, runs, tasks, workflows
from engine.store.database import Database
from tests.api.service import Service
from tests.api.test_workflows import data, refused
from tests.factories import request, session_async
from tests.worker.bench import until, working

pytestmark = pytest.mark.anyio

MANY = """
workflows:
  definitions:
    - workflow_id: many
      tasks:
        - {task_id: load, kind: fine}
        - {task_id: price, kind: broken, dependencies: [load]}
        - {task_id: book, kind: fine, dependencies: [price]}
        - {task_id: report, kind: fine, dependencies: [book]}
        - {task_id: left, kind: fine, condition: "1 > 2"}
        - {task_id: below_left, kind: fine, dependencies: [left]}
        - {task_id: watch, kind: fine, dependencies: [load], rule: one_failed}
        - {task_id: watch_book, kind: fine, dependencies: [book], rule: one_failed}
"""
STATUSES = {
    "load": "Success",
    "price": "Failed",
    "book": "Failed",
    "report": "Failed",
    "left": "Skipped",
    "below_left": "Skipped",
    "watch": "Skipped",
    "watch_book": "Success",
}


async def splits(context: TaskContext, params: Any) -> Outcome:
    await context.add_sub_tasks([TaskSpec("bad", "broken"), TaskSpec("good", "fine")])
    return Succeeded()


async def broken(context: TaskContext, params: Any) -> Outcome:
    return Failed("no", is_permanent=True)


async def start(database: Database, workflow: Workflow) -> str:
    await workflows.save(database, [workflow])
    return str((await executions.execute(database, workflow.name)).run_id)


async def instance_of(service: Service, instance_id: str) -> Any:
    return await data(await service.client.get(f"/api/v1/instances/{instance_id}"))


async def tasks_of(service: Service, instance_id: str) -> list[Any]:
    found: list[Any] = await data(await service.client.get(f"/api/v1/instances/{instance_id}/tasks"))
    return found


async def come_to(service: Service, instance_id: str) -> Any:
    async def is_over() -> bool:
        return (await runs.get(service.database, int(instance_id))).state in FINAL_RUN_STATES

    await until(is_over)
    return await instance_of(service, instance_id)


async def test_only_what_a_failure_kept_from_running_has_failed(service: Service) -> None:
    async with working(service.database, broken):
        instance_id = await start(service.database, from_yaml(MANY))
        found = await come_to(service, instance_id)
    listed = await tasks_of(service, instance_id)
    assert {task["task_name"]: task["status"] for task in listed} == STATUSES
    progress = found["progress"]
    assert (found["status"], progress["failed"], progress["skipped"], progress["pending"]) == (
        "Failed",
        3,
        3,
        0,
    )


async def test_tolerated_failures_fail_nobody_else(service: Service) -> None:
    split = WorkflowTask("split", kind="splits", is_template=True)
    left = WorkflowTask("left", kind="fine", depends_on=["split"], condition="1 > 2")
    workflow = Workflow("tolerant", tasks=[split, left], sub_task_error_tolerance=0.5)
    async with working(service.database, splits, broken):
        instance_id = await start(service.database, workflow)
        found = await come_to(service, instance_id)
    assert found["status"] == "Success" and "error_message" not in found
    assert {task["task_name"]: task["status"] for task in await tasks_of(service, instance_id)} == {
        "split": "Success",
        "left": "Skipped",
        "bad": "Failed",
        "good": "Success",
    }
    assert (found["progress"]["failed"], found["progress"]["skipped"]) == (1, 1)


async def test_an_instance_says_what_failed_it_rather_than_its_sub_task(service: Service) -> None:
    workflow = Workflow("strict", tasks=[WorkflowTask("split", kind="splits", is_template=True)])
    async with working(service.database, splits, broken):
        found = await come_to(service, await start(service.database, workflow))
    assert (found["status"], found["error_message"]) == ("Failed", "1 of 2 sub-tasks did not succeed: bad")


# --- cancel


async def two(service: Service) -> str:
    both = [WorkflowTask("load", kind="noop"), WorkflowTask("book", kind="noop", depends_on=["load"])]
    return await start(service.database, Workflow("two", tasks=both))


async def claimed(service: Service) -> list[Lease]:
    worker = await session_async(service.database)
    return await tasks.claim(service.database, request(worker), actor="worker")


async def cancel(service: Service, instance_id: str, **body: Any) -> Any:
    return await service.client.post(f"/api/v1/instances/{instance_id}/cancel", **body)


async def test_a_cancelled_instance_says_what_for(service: Service) -> None:
    instance_id = await two(service)
    await data(await cancel(service, instance_id, json={"reason": "enough"}))
    found = await instance_of(service, instance_id)
    assert (found["status"], found["error_message"]) == ("Terminated", "enough")
    assert {task["error_message"] for task in await tasks_of(service, instance_id)} == {"enough"}
    listed = await data(await service.client.get("/api/v1/instances"))
    assert listed["items"][0]["error_message"] == "enough"
    assert (await workflows.get_run(service.database, int(instance_id))).error == "enough"


async def test_the_reason_is_kept_though_all_tasks_ran(service: Service) -> None:
    instance_id = await two(service)
    [lease] = await claimed(service)
    await runs.cancel(service.database, int(instance_id), reason="too late")
    await tasks.finish(service.database, [(lease, Succeeded())], actor="worker")
    found = await instance_of(service, instance_id)
    assert (found["status"], found["error_message"]) == ("Terminated", "too late")


async def test_after_a_retry_the_old_reason_is_gone(service: Service) -> None:
    instance_id = await two(service)
    await data(await cancel(service, instance_id, json={"reason": "enough"}))
    await data(await service.client.post(f"/api/v1/instances/{instance_id}/retry"))
    assert "error_message" not in await instance_of(service, instance_id)
    load = await tasks.get_by_name(service.database, int(instance_id), "load")
    await tasks.cancel(service.database, load.id, reason="not load")
    found = await instance_of(service, instance_id)
    assert (found["status"], found["error_message"]) == ("Terminated", "not load")


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b'{"reason": null}'])
async def test_a_cancel_needs_no_reason(service: Service, body: bytes) -> None:
    instance_id = await two(service)
    await data(await cancel(service, instance_id, content=body))
    assert (await instance_of(service, instance_id))["error_message"] == "context canceled"


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"reason": 1}', b'{"reason": ""}', b'{"reason": "%s"}' % (b"x" * 1_001)]
)
async def test_reasons_that_are_none_change_nothing(service: Service, body: bytes) -> None:
    instance_id = await two(service)
    refused(await cancel(service, instance_id, content=body), 400)
    refused(await cancel(service, instance_id, content=b'{"reason": "a\\u0000"}'), 400)
    assert (await instance_of(service, instance_id))["status"] == "Ready"


# --- control in a state that forbids it


async def test_control_names_the_state_that_forbids_it(service: Service) -> None:
    instance_id = await two(service)

    async def control(verb: str) -> Any:
        return await service.client.post(f"/api/v1/instances/{instance_id}/{verb}")

    async def refusal(verb: str) -> str:
        return refused(await control(verb), 409).removeprefix(f"instance {instance_id} is ")

    assert await refusal("resume") == "Ready; only a Paused instance can be resumed"
    assert await refusal("retry") == "Ready; only a Failed or Terminated instance can be retried"
    await data(await control("pause"))
    assert await refusal("pause") == "Paused; only a Ready or Running instance can be paused"
    await data(await control("resume"))
    [lease] = await claimed(service)
    assert await refusal("resume") == "Running; only a Paused instance can be resumed"
    await data(await control("cancel"))
    await data(await control("cancel"))  # its running task may go on for a while
    assert (await instance_of(service, instance_id))["status"] == "Running"
    await tasks.finish(service.database, [(lease, Cancelled())], actor="worker")
    assert (await instance_of(service, instance_id))["status"] == "Terminated"


async def test_control_of_what_has_ended_is_refused(service: Service) -> None:
    instance_id = await two(service)
    await data(await cancel(service, instance_id))
    unfinished = "only a Ready, Running or Paused instance can be cancelled"
    assert (
        refused(await cancel(service, instance_id), 409)
        == f"instance {instance_id} is Terminated; {unfinished}"
    )
    events = len(await runs.events(service.database, int(instance_id)))
    for verb in ("pause", "resume"):
        refused(await service.client.post(f"/api/v1/instances/{instance_id}/{verb}"), 409)
    assert len(await runs.events(service.database, int(instance_id))) == events


async def test_repeating_a_control_of_runs_is_harmless(service: Service) -> None:
    run_id = await two(service)
    for verb in ("resume", "pause", "pause", "resume", "cancel", "cancel"):
        assert (await service.client.post(f"/api/v1/runs/{run_id}/{verb}")).status_code == 200
    refusal = await service.client.post(f"/api/v1/runs/{run_id}/pause")
    assert (
        refusal.json()["detail"] == f"run {run_id} is cancelled; only a pending or running run can be paused"
    )


# --- times


async def test_no_task_starts_before_its_instance(service: Service) -> None:
    async with working(service.database, broken):
        instance_id = await start(service.database, from_yaml(MANY))
        found = await come_to(service, instance_id)
    started = [task["started_at"] for task in await tasks_of(service, instance_id) if "started_at" in task]
    assert min(started) >= found["started_at"]
