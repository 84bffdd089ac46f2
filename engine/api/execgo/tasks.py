"""Routes of the ExecGo contract for tasks: submit, show, list, delete."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.exceptions import ClientException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from engine.api.answers import ErrorBody
from engine.api.bodies import decode, idempotency_key, large_in_hand, off_loop, read_submit_body
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.execgo.translation import CONTRACT, FILTERS, Kinds, graph_of, task_out
from engine.api.execgo.wire import Accepted, GraphIn, TaskOut
from engine.api.options import ApiRequest, Services, actor_of, services_of
from engine.errors import NotFound, UnknownKind
from engine.model.graph import Graph
from engine.model.json import MAX_INT
from engine.model.records import Task
from engine.operations import submits, tasks
from engine.operations.submits import Key

PAGE = 500
_graphs = msgspec.json.Decoder(GraphIn)
_encoder = msgspec.json.Encoder()


def kinds_of(request: ApiRequest) -> Kinds:
    kinds: Kinds = request.app.state.execgo_kinds
    return kinds


# --- submit


@post(
    "/tasks",
    status_code=202,
    operation_class=body_operation("GraphIn"),
    responses=refusals(ErrorBody, 400, 413, 422, 503),
    summary="Submit a graph of tasks",
    tags=["ExecGo"],
)
async def submit_tasks(request: ApiRequest) -> Accepted:
    """Stored and queued when this answers. A task id that exists is taken over by the new task."""
    body = await read_submit_body(request)
    with large_in_hand(body):
        return await _submit(request, body)


async def _submit(request: ApiRequest, body: bytes) -> Accepted:
    kinds = kinds_of(request)

    def read() -> tuple[Graph, Key | None]:
        tasks = decode(_graphs, body).tasks or []
        return graph_of(tasks, kinds, body), idempotency_key(request, tasks)

    graph, key = await off_loop(body, read)
    await accept(request, graph, key)
    return Accepted(len(graph.tasks), [task.name for task in graph.tasks])


async def accept(request: ApiRequest, graph: Graph, key: Key | None = None) -> int:
    """Store a graph under the names of this contract; returns the run."""
    services, kinds = services_of(request), kinds_of(request)
    await services.admission.check(len(graph.tasks))
    try:
        accepted = await submits.submit(
            services.database,
            graph,
            actor=actor_of(request),
            contract=CONTRACT,
            key=key,
            known_kinds=kinds.known,
        )
    except UnknownKind as error:
        raise kinds.unknown(error.kind) from None
    return accepted.run_id


# --- show and delete


@get(
    "/tasks/{task_id:str}",
    responses=refusals(ErrorBody, 404, 503),
    summary="One task",
    tags=["ExecGo"],
)
async def show_task(request: ApiRequest, task_id: FromPath[str]) -> TaskOut:
    task = await tasks.get_aliased(services_of(request).database, CONTRACT, _name(task_id))
    return task_out(task, kinds_of(request))


@delete(
    "/tasks/{task_id:str}",
    status_code=204,
    responses=refusals(ErrorBody, 404, 503),
    summary="Forget a task",
    tags=["ExecGo"],
)
async def delete_task(request: ApiRequest, task_id: FromPath[str]) -> None:
    """Gone from this contract's view at once. What had not started is cancelled."""
    await tasks.forget_alias(services_of(request).database, CONTRACT, _name(task_id), actor=actor_of(request))


@post(
    "/tasks/{task_id:str}/cancel",
    status_code=200,
    responses=refusals(ErrorBody, 404, 409, 503),
    summary="Cancel a task",
    tags=["ExecGo"],
)
async def cancel_task(request: ApiRequest, task_id: FromPath[str]) -> TaskOut:
    """At once if it has not started, otherwise its worker stops it. An extension of the contract."""
    database = services_of(request).database
    task = await tasks.get_aliased(database, CONTRACT, _name(task_id))
    cancelled = await tasks.cancel(database, task.id, actor=actor_of(request))
    return task_out(cancelled, kinds_of(request))


def _name(segment: str) -> str:
    name = text_of_segment(segment)
    if not name.isprintable():
        raise NotFound("task not found: the id holds a control character")
    return name


# --- list


@get(
    "/tasks",
    responses={200: ResponseSpec(list[TaskOut], description="Tasks", generate_examples=False)}
    | refusals(ErrorBody, 400, 503),
    summary="Tasks, all of them without a limit",
    tags=["ExecGo"],
)
async def list_tasks(
    request: ApiRequest,
    limit: Annotated[int | None, QueryParameter(ge=1, le=10_000)] = None,
    offset: Annotated[int, QueryParameter(ge=0, le=1_000_000_000)] = 0,
    status: FromQuery[str | None] = None,
    type_: Annotated[str | None, QueryParameter(name="type")] = None,
    run_id: Annotated[int | None, QueryParameter(ge=0, le=MAX_INT)] = None,
) -> Response[bytes] | Stream:
    """In the order of submission. The filters are an extension of the contract."""
    wanted = _filters(status, type_, run_id, kinds_of(request))
    services = services_of(request)
    first = await tasks.list_aliased(
        services.database, CONTRACT, offset=offset, limit=min(limit or PAGE, PAGE), **wanted
    )
    if request.scope.get("engine_is_head"):
        return Response(b"", media_type="application/json")
    if len(first) < PAGE or limit == PAGE:
        return Response(_encoder.encode(_shown(first, request)), media_type="application/json")
    return Stream(_rest(request, services, first, wanted, limit), media_type="application/json")


async def _rest(
    request: ApiRequest, services: Services, page: list[Task], wanted: dict[str, Any], limit: int | None
) -> AsyncIterator[bytes]:
    """The array, page by page: memory does not grow with the number of tasks."""
    left = None if limit is None else limit
    opening = b"["
    while page:
        yield opening + _encoder.encode(_shown(page, request))[1:-1]
        opening = b","
        left = None if left is None else left - len(page)
        size = PAGE if left is None else min(PAGE, left)
        if len(page) < PAGE or size == 0:
            break
        page = await tasks.list_aliased(services.database, CONTRACT, after=page[-1].id, limit=size, **wanted)
    yield b"]"


def _shown(page: list[Task], request: ApiRequest) -> list[TaskOut]:
    kinds = kinds_of(request)
    return [task_out(task, kinds) for task in page]


def _filters(status: str | None, type_: str | None, run_id: int | None, kinds: Kinds) -> dict[str, Any]:
    wanted: dict[str, Any] = {"run_id": run_id}
    if status is not None:
        if status not in FILTERS:
            raise ClientException(f"unknown status {status[:40]!r} (accepted: {', '.join(FILTERS)})")
        wanted["states"], wanted["failed_before"] = FILTERS[status]
    if type_ is not None:
        wanted["kinds"] = kinds.of_type(type_) if type_.isprintable() else [""]
    return wanted


ROUTES = [submit_tasks, show_task, delete_task, cancel_task, list_tasks]
