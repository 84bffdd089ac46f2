"""Routes of `/api/v1/workflows`: upload, list, show, versions, enable, delete, execute, history."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter

from engine.api.answers import EnvelopeBody
from engine.api.bodies import decode, idempotency_key, read_small_body
from engine.api.documents import YAML, body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_translation import name_of
from engine.api.workflows import workflow_translation as translation
from engine.api.workflows.translation import RUN_STATE, summary_of
from engine.api.workflows.wire import (
    DefinitionFormat,
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
    WorkflowVersion,
)
from engine.definitions import read_workflows
from engine.errors import InvalidInput, NotFound
from engine.model.records import SavedWorkflow
from engine.model.workflows import Workflow
from engine.operations import executions, workflows

_TAGS = ["Workflows"]
_YAML_TYPES = {"application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"}
_MAX_VERSION = 2**31 - 1
_upload: msgspec.json.Decoder[UploadIn] = msgspec.json.Decoder(UploadIn)
_execute: msgspec.json.Decoder[ExecuteIn] = msgspec.json.Decoder(ExecuteIn)

Limit = Annotated[int, QueryParameter(ge=0, le=100)]
Offset = Annotated[int, QueryParameter(ge=0, le=2**31 - 1)]
VersionNumber = Annotated[int | None, QueryParameter(ge=1, le=_MAX_VERSION)]
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
    started with. Variables are those of `environment`: the server's own are never put in."""
    body = await read_small_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()

    services = services_of(request)
    kinds = services.registry
    against = await workflows.checks(services.database, kinds)

    def read() -> list[Workflow]:
        given = UploadIn(_text(body)) if kind in _YAML_TYPES else decode(_upload, body)
        return read_workflows(given.content, checks=against, environment=given.environment)

    found = await asyncio.to_thread(read)  # YAML is slow to read
    saved = await workflows.save(services.database, found, kinds=kinds, actor=actor_of(request))
    return ok(translation.uploaded(saved, found))


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
    return ok(translation.page_of(total, found, offset))


@get(
    "/api/v1/workflows/{workflow_id:str}",
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="One workflow",
    tags=_TAGS,
)
async def show_workflow(
    request: ApiRequest, workflow_id: FromPath[str], version: VersionNumber = None
) -> Envelope[WorkflowDetail]:
    """By id or name; the newest version unless one is asked for."""
    return ok(translation.detail_of(await _saved(request, workflow_id, version)))


async def _saved(request: ApiRequest, workflow_id: str, version: int | None) -> SavedWorkflow:
    return await workflows.get(services_of(request).database, key_of(workflow_id), version)


# --- versions


@get(
    "/api/v1/workflows/{workflow_id:str}/versions",
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="Versions of a workflow, newest first",
    tags=_TAGS,
)
async def list_versions(
    request: ApiRequest, workflow_id: FromPath[str], limit: Limit = 0, offset: Offset = 0
) -> Envelope[Workflows]:
    total, found = await workflows.versions(
        services_of(request).database, key_of(workflow_id), limit=limit or DEFAULT_LIMIT, offset=offset
    )
    return ok(translation.page_of(total, found, offset))


@get(
    "/api/v1/workflows/{workflow_id:str}/versions/{version:str}",
    responses={
        200: ResponseSpec(Envelope[WorkflowVersion], description="The version", generate_examples=False)
    }
    | refusals(EnvelopeBody, 400, 404, 503),
    summary="One version with its definition",
    tags=_TAGS,
)
async def show_version(
    request: ApiRequest,
    workflow_id: FromPath[str],
    version: FromPath[str],
    format: FromQuery[DefinitionFormat] = DefinitionFormat.JSON,
) -> Response[Any]:
    """The definition as it is stored; with `format=yaml` a file that an upload reads as the same workflow."""
    saved = await _saved(request, workflow_id, _version_of(workflow_id, version))
    if format is DefinitionFormat.YAML:
        return await _file(saved)
    return Response(ok(translation.version_of(saved)))


@get(
    "/api/v1/workflows/{workflow_id:str}/definition",
    media_type=YAML,
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="The definition as a YAML file",
    tags=_TAGS,
)
async def download_definition(
    request: ApiRequest, workflow_id: FromPath[str], version: VersionNumber = None
) -> Response[str]:
    """The newest version unless one is asked for. An upload reads it as the same workflow."""
    return await _file(await _saved(request, workflow_id, version))


async def _file(saved: SavedWorkflow) -> Response[str]:
    text = await asyncio.to_thread(translation.yaml_of, saved)  # YAML is slow to write
    name = f"{saved.id}-{saved.version}.yaml"  # not the workflow's name, which may hold anything
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(text, media_type=YAML, headers=headers)


def _version_of(workflow_id: str, text: str) -> int:
    """A number out of a path. What cannot be one is not found."""
    if text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= _MAX_VERSION:
        return int(text)
    raise NotFound(f"workflow not found: {key_of(workflow_id)} version {name_of(text, 'version')[:60]}")


# --- control


@post(
    "/api/v1/workflows/{workflow_id:str}/enable",
    status_code=200,
    responses=refusals(EnvelopeBody, 404, 503),
    summary="Let a workflow be executed",
    tags=_TAGS,
)
async def enable_workflow(request: ApiRequest, workflow_id: FromPath[str]) -> Envelope[Message]:
    return await _enable(request, workflow_id, True)


@post(
    "/api/v1/workflows/{workflow_id:str}/disable",
    status_code=200,
    responses=refusals(EnvelopeBody, 404, 503),
    summary="Let a workflow start no more instances",
    tags=_TAGS,
)
async def disable_workflow(request: ApiRequest, workflow_id: FromPath[str]) -> Envelope[Message]:
    """Neither by request nor by schedule. Those that run go on."""
    return await _enable(request, workflow_id, False)


async def _enable(request: ApiRequest, workflow_id: str, is_enabled: bool) -> Envelope[Message]:
    saved = await workflows.enable(
        services_of(request).database, key_of(workflow_id), is_enabled, actor=actor_of(request)
    )
    return ok(Message(f"workflow {'enabled' if is_enabled else 'disabled'}", saved.id))


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
        services_of(request).database, key_of(workflow_id), actor=actor_of(request)
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
    services, key = services_of(request), key_of(workflow_id)
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
        workflow=key_of(workflow_id),
        states=() if status is None else (RUN_STATE[status],),
        limit=limit,
        offset=offset,
        is_oldest_first=order is Order.OLDEST_FIRST,
    )
    return ok(Instances(total, [summary_of(item) for item in found], offset + limit < total))


def key_of(segment: str) -> str:
    return name_of(text_of_segment(segment), "workflow")


ROUTES = [
    upload_workflow,
    list_workflows,
    show_workflow,
    list_versions,
    show_version,
    download_definition,
    enable_workflow,
    disable_workflow,
    delete_workflow,
    execute_workflow,
    workflow_history,
]
