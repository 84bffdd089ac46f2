"""Routes of `/api/v1/instances`: list, show, tasks, logs, pause, resume, cancel, retry, rerun."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, FromQuery

from engine.api.answers import EnvelopeBody
from engine.api.bodies import decode, read_reason, read_small_body
from engine.api.documents import body_operation, refusals
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.parameters import printable
from engine.api.run_translation import id_of, log_line_out
from engine.api.run_wire import LogLineOut
from engine.api.workflows.translation import (
    MAX_IDS,
    RUN_STATE,
    TERMS,
    apply_skips,
    detail_of,
    summary_of,
    task_instance_of,
)
from engine.api.workflows.wire import (
    Envelope,
    ExecuteIn,
    InstanceDetail,
    Instances,
    InstanceStatus,
    Message,
    Started,
    TaskInstance,
    TaskStatus,
)
from engine.api.workflows.workflows import DEFAULT_LIMIT, Limit, Offset, ok
from engine.model.records import Run, Task
from engine.model.skips import NO_SKIPS, Skips
from engine.model.states import TaskState
from engine.operations import executions, runs, workflows
from engine.store.database import Database

_TAGS = ["Instances"]
_PAGE = 5_000
_changes: msgspec.json.Decoder[ExecuteIn] = msgspec.json.Decoder(ExecuteIn)


@get(
    "/api/v1/instances",
    responses=refusals(EnvelopeBody, 400, 503),
    summary="Instances, newest first",
    tags=_TAGS,
)
async def list_instances(
    request: ApiRequest, status: FromQuery[InstanceStatus | None] = None, limit: Limit = 0, offset: Offset = 0
) -> Envelope[Instances]:
    limit = limit or DEFAULT_LIMIT
    total, found = await workflows.list_runs(
        services_of(request).database,
        states=() if status is None else (RUN_STATE[status],),
        limit=limit,
        offset=offset,
    )
    return ok(Instances(total, [summary_of(item) for item in found], offset + limit < total))


@get(
    "/api/v1/instances/{instance_id:str}",
    responses=refusals(EnvelopeBody, 404, 503),
    summary="One instance and its progress",
    tags=_TAGS,
)
async def show_instance(request: ApiRequest, instance_id: FromPath[str]) -> Envelope[InstanceDetail]:
    database, number = services_of(request).database, id_of(instance_id, "instance")
    found = await workflows.get_run(database, number)
    listed: list[Task] = []
    if found.run.finished_at is None:
        for state in (TaskState.RUNNING, TaskState.BLOCKED, TaskState.AVAILABLE, TaskState.HELD):
            listed += await runs.tasks(database, number, state=state, limit=MAX_IDS)
    return ok(detail_of(found, listed, await skips_of(database, found.run)))


async def skips_of(database: Database, run: Run) -> Skips:
    """Without a look where there can be none."""
    return await runs.skips(database, run.id) if run.skipped and run.failed else NO_SKIPS


@get(
    "/api/v1/instances/{instance_id:str}/tasks",
    responses=refusals(EnvelopeBody, 404, 503),
    summary="Tasks of an instance",
    tags=_TAGS,
)
async def list_instance_tasks(
    request: ApiRequest, instance_id: FromPath[str]
) -> Envelope[list[TaskInstance]]:
    """All of them, in the order of the workflow."""
    database, number = services_of(request).database, id_of(instance_id, "instance")
    run = (await workflows.get_run(database, number)).run
    found: list[TaskInstance] = []
    after: int | None = None
    while True:
        page = await runs.tasks(database, number, after=after, limit=_PAGE)
        found += [task_instance_of(task, run) for task in page]
        if len(page) < _PAGE:
            break
        after = page[-1].id
    if any(task.status is TaskStatus.SKIPPED for task in found):
        apply_skips(found, await runs.skips(database, number))
    return ok(found)


@get(
    "/api/v1/instances/{instance_id:str}/logs",
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="Captured output of an instance",
    tags=_TAGS,
)
async def list_instance_logs(
    request: ApiRequest,
    instance_id: FromPath[str],
    task: FromQuery[str | None] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> Envelope[list[LogLineOut]]:
    database, number = services_of(request).database, id_of(instance_id, "instance")
    await workflows.get_run(database, number)
    lines = await runs.logs(
        database,
        number,
        task_name=printable("task", task),
        limit=limit or DEFAULT_LIMIT,
        offset=offset,
        terms=TERMS,
    )
    return ok([log_line_out(line) for line in lines])


# --- control

_CONTROL: dict[str, Any] = {
    "status_code": 200,
    "responses": refusals(EnvelopeBody, 404, 409, 503),
    "tags": _TAGS,
}


async def _own(request: ApiRequest, instance_id: str) -> int:
    number = id_of(instance_id, "instance")
    await workflows.get_run(services_of(request).database, number)
    return number


@post("/api/v1/instances/{instance_id:str}/pause", summary="Start no further task until resumed", **_CONTROL)
async def pause_instance(request: ApiRequest, instance_id: FromPath[str]) -> Envelope[Message]:
    """Running tasks go on to their end."""
    number = await _own(request, instance_id)
    await runs.hold(services_of(request).database, number, actor=actor_of(request), terms=TERMS)
    return ok(Message("instance paused", str(number)))


@post("/api/v1/instances/{instance_id:str}/resume", summary="Go on after a pause", **_CONTROL)
async def resume_instance(request: ApiRequest, instance_id: FromPath[str]) -> Envelope[Message]:
    number = await _own(request, instance_id)
    await runs.resume(services_of(request).database, number, actor=actor_of(request), terms=TERMS)
    return ok(Message("instance resumed", str(number)))


@post(
    "/api/v1/instances/{instance_id:str}/cancel",
    status_code=200,
    operation_class=body_operation("CancelIn"),
    responses=refusals(EnvelopeBody, 400, 404, 409, 413, 503),
    summary="End an instance",
    tags=_TAGS,
)
async def cancel_instance(request: ApiRequest, instance_id: FromPath[str]) -> Envelope[Message]:
    """Running tasks are told to stop; no further one starts. The instance says `reason` as its error."""
    number = await _own(request, instance_id)
    reason = await read_reason(request)
    database = services_of(request).database
    await runs.cancel(database, number, reason=reason, actor=actor_of(request), terms=TERMS)
    return ok(Message("instance cancelled", str(number)))


@post("/api/v1/instances/{instance_id:str}/retry", summary="Run again what did not succeed", **_CONTROL)
async def retry_instance(request: ApiRequest, instance_id: FromPath[str]) -> Envelope[Message]:
    """Results of tasks that succeeded are kept."""
    number = await _own(request, instance_id)
    await runs.retry(services_of(request).database, number, actor=actor_of(request), terms=TERMS)
    return ok(Message("instance goes on", str(number)))


@post(
    "/api/v1/instances/{instance_id:str}/rerun",
    status_code=200,
    operation_class=body_operation("ExecuteIn"),
    responses=refusals(EnvelopeBody, 400, 404, 409, 413, 422, 503),
    summary="Start the same version once more",
    tags=_TAGS,
)
async def rerun_instance(request: ApiRequest, instance_id: FromPath[str]) -> Envelope[Started]:
    """`params` replace those of the earlier instance, one by one."""
    number = await _own(request, instance_id)
    body = await read_small_body(request)
    wanted = decode(_changes, body) if body.strip() else ExecuteIn()
    accepted = await executions.rerun(
        services_of(request).database, number, wanted.params, actor=actor_of(request)
    )
    return ok(Started(str(accepted.run_id), "instance started"))


ROUTES = [
    list_instances,
    show_instance,
    list_instance_tasks,
    list_instance_logs,
    pause_instance,
    resume_instance,
    cancel_instance,
    retry_instance,
    rerun_instance,
]
