"""Routes of `/api/v1/workflows`: upload, list, show, delete, execute, history."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from engine.api.answers import EnvelopeBody
from engine.api.bodies import decode, idempotency_key, read_small_body
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_translation import name_of
from engine.api.workflows.translation import RUN_STATE, summary_of
from engine.api.workflows.wire import (
    Envelope,
    ExecuteIn,
    Instances,
    InstanceStatus,
    Message,
    Order,
    Started,
    Uploaded,
    UploadIn,
    WorkflowDetail,
    Workflows,
    WorkflowStatus,
    WorkflowSummary,
    WorkflowTaskOut,
)
from engine.definitions import read_workflows
from engine.errors import InvalidInput
from engine.model.records import SavedWorkflow
from engine.model.workflows import Workflow
from engine.operations import executions, workflows

_TAGS = ["Workflows"]
_YAML = {"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"}
_upload: msgspec.json.Decoder[UploadIn] = msgspec.json.Decoder(UploadIn)
_execute: msgspec.json.Decoder[ExecuteIn] = msgspec.json.Decoder(ExecuteIn)

Limit = Annotated[int, QueryParameter(ge=0, le=100)]
Offset = Annotated[int, QueryParameter(ge=0, le=2**31 - 1)]
DEFAULT_LIMIT = 20


def ok(data: Any) -> Envelope[Any]:
    return Envelope(0, "success", data)


@post(
    "/api/v1/workflows",
    status_code=200,
    operation_class=body_operation("UploadIn"),
    responses=refusals(EnvelopeBody, 400, 413, 503),
    summary="Save workflows from YAML",
    tags=_TAGS,
)
async def upload_workflow(request: ApiRequest) -> Envelope[Uploaded]:
    """The YAML stands in `content`, or is the body itself with `Content-Type: application/yaml`. All its
    workflows are saved, or none. A name that is known gets a new version; runs keep the version that they
    started with."""
    body = await read_small_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()

    services = services_of(request)
    kinds = services.registry.kinds()
    against = await workflows.checks(services.database, kinds)

    def read() -> list[Workflow]:
        text = _text(body) if kind in _YAML else decode(_upload, body).content
        return read_workflows(text, checks=against)

    found = await asyncio.to_thread(read)  # YAML is slow to read
    saved = await workflows.save(services.database, found, kinds=kinds, actor=actor_of(request))
    by_name = {item.name: item for item in saved}
    summaries = [_summary(by_name[workflow.name], workflow) for workflow in found]
    return ok(Uploaded(**msgspec.structs.asdict(summaries[0]), workflows=summaries))


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8 at byte {error.start}") from None


@get(
    "/api/v1/workflows",
    responses=refusals(EnvelopeBody, 400, 503),
    summary="Workflows, last created first",
    tags=_TAGS,
)
async def list_workflows(request: ApiRequest, limit: Limit = 0, offset: Offset = 0) -> Envelope[Workflows]:
    """Without `limit` all of them."""
    total, found = await workflows.list_saved(
        services_of(request).database, limit=limit or None, offset=offset
    )
    items = [_summary(saved) for saved in found]
    return ok(Workflows(total, items, offset + len(items) < total))


@get(
    "/api/v1/workflows/{workflow_id:str}",
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="One workflow",
    tags=_TAGS,
)
async def show_workflow(
    request: ApiRequest,
    workflow_id: FromPath[str],
    version: Annotated[int | None, QueryParameter(ge=1, le=2**31 - 1)] = None,
) -> Envelope[WorkflowDetail]:
    """By id or name; the newest version unless one is asked for."""
    saved = await workflows.get(services_of(request).database, _key(workflow_id), version)
    workflow = Workflow.from_json(saved.definition)
    tasks = [
        WorkflowTaskOut(
            id=task.name,
            name=task.name,
            description=task.description,
            dependencies=list(task.depends_on) or None,
            timeout=None if task.timeout_ms is None else task.timeout_ms / 1000,
            retry_count=task.retry_count or None,
        )
        for task in workflow.tasks
    ]
    return ok(
        WorkflowDetail(
            **msgspec.structs.asdict(_summary(saved, workflow)),
            tasks=tasks,
            dependencies={task.name: list(task.depends_on) for task in workflow.tasks if task.depends_on},
        )
    )


def _summary(saved: SavedWorkflow, workflow: Workflow | None = None) -> WorkflowSummary:
    workflow = workflow or Workflow.from_json(saved.definition)
    return WorkflowSummary(
        id=saved.id,
        name=saved.name,
        description=saved.description,
        task_count=saved.task_count,
        created_at=saved.created_at,
        status=WorkflowStatus.ENABLED if saved.is_enabled else WorkflowStatus.DISABLED,
        version=saved.version,
        cron_expr=workflow.cron,
        cron_enabled=None if workflow.cron is None else saved.is_enabled,
    )


@delete(
    "/api/v1/workflows/{workflow_id:str}",
    status_code=200,
    responses=refusals(EnvelopeBody, 404, 409, 503),
    summary="Delete a workflow with all its versions",
    tags=_TAGS,
)
async def delete_workflow(request: ApiRequest, workflow_id: FromPath[str]) -> Envelope[Message]:
    """Refused while it has unfinished instances. Finished ones stay until they are pruned."""
    deleted = await workflows.delete(
        services_of(request).database, _key(workflow_id), actor=actor_of(request)
    )
    return ok(Message("workflow deleted", deleted))


@post(
    "/api/v1/workflows/{workflow_id:str}/execute",
    status_code=200,
    operation_class=body_operation("ExecuteIn"),
    responses=refusals(EnvelopeBody, 400, 404, 409, 413, 422, 503),
    summary="Start an instance",
    tags=_TAGS,
)
async def execute_workflow(request: ApiRequest, workflow_id: FromPath[str]) -> Envelope[Started]:
    """`Idempotency-Key` makes it safe to repeat."""
    services, key = services_of(request), _key(workflow_id)
    body = await read_small_body(request)
    wanted = decode(_execute, body) if body.strip() else ExecuteIn()
    await services.admission.check(1)
    accepted = await executions.execute(
        services.database,
        key,
        wanted.params,
        idempotency=idempotency_key(request, [wanted.params]),
        actor=actor_of(request),
    )
    return ok(Started(str(accepted.run_id), "instance started"))


@get(
    "/api/v1/workflows/{workflow_id:str}/history",
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="Instances of a workflow",
    tags=_TAGS,
)
async def workflow_history(
    request: ApiRequest,
    workflow_id: FromPath[str],
    status: FromQuery[InstanceStatus | None] = None,
    limit: Limit = 0,
    offset: Offset = 0,
    order: FromQuery[Order] = Order.NEWEST_FIRST,
) -> Envelope[Instances]:
    """Newest first unless `order=asc`; `total` counts what matches `status`."""
    limit = limit or DEFAULT_LIMIT
    total, found = await workflows.list_runs(
        services_of(request).database,
        workflow=_key(workflow_id),
        states=() if status is None else (RUN_STATE[status],),
        limit=limit,
        offset=offset,
        is_oldest_first=order is Order.OLDEST_FIRST,
    )
    return ok(Instances(total, [summary_of(item) for item in found], offset + limit < total))


def _key(segment: str) -> str:
    return name_of(text_of_segment(segment), "workflow")


ROUTES = [
    upload_workflow,
    list_workflows,
    show_workflow,
    delete_workflow,
    execute_workflow,
    workflow_history,
]
