"""Routes of `/api/v1/runs`: submit, show, list, follow, control, delete."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import msgspec
from litestar import Response, delete, get, post
from litestar.params import FromPath, FromQuery, QueryParameter

from engine.api.answers import Problem
from engine.api.bodies import decode, idempotency_key, large_in_hand, off_loop, read_reason, read_submit_body
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.parameters import InvalidParameters, not_accepted, printable
from engine.api.run_translation import (
    attempt_out,
    event_out,
    graph_of,
    id_of,
    log_line_out,
    name_of,
    run_out,
    task_out,
    validate,
)
from engine.api.run_wire import (
    Edge,
    Events,
    Logs,
    RunDetails,
    RunIn,
    RunOut,
    Runs,
    RunTask,
    RunTasks,
    SubmittedRun,
    TaskDetails,
)
from engine.model.graph import Graph
from engine.model.json import MAX_INT
from engine.model.records import Task
from engine.model.states import RunState, TaskState
from engine.operations import runs, submits, tasks
from engine.operations.submits import Key

_documents: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_POLL_SECONDS = 0.2
MAX_WAIT_SECONDS = 25.0  # below the 30 s after which the server gives a request up …
_WAIT_SHARE = MAX_WAIT_SECONDS / 30  # … and so much of that time where it is set shorter
_TAGS = ["Runs"]

Limit = Annotated[int, QueryParameter(ge=1, le=500)]
LongLimit = Annotated[int, QueryParameter(ge=1, le=10_000)]
OptionalNumber = Annotated[int | None, QueryParameter(ge=0, le=MAX_INT)]
Number = Annotated[int, QueryParameter(ge=0, le=MAX_INT)]
EventNumber = Annotated[int, QueryParameter(ge=0, le=2**31 - 1)]


@post(
    "/api/v1/runs",
    status_code=202,
    operation_class=body_operation("RunIn"),
    responses=refusals(Problem, 400, 413, 422, 503),
    summary="Submit a run",
    tags=_TAGS,
)
async def submit_run(request: ApiRequest) -> Response[SubmittedRun]:
    """The whole graph is stored durably, or nothing. `Idempotency-Key` makes it safe to repeat."""
    body = await read_submit_body(request)
    with large_in_hand(body):
        return await _submit(request, body)


async def _submit(request: ApiRequest, body: bytes) -> Response[SubmittedRun]:
    services = services_of(request)

    def read() -> tuple[Graph, Key | None]:
        document = decode(_documents, body)
        graph = graph_of(validate(RunIn, document), services.registry)
        return graph, idempotency_key(request, [{**document, "tasks": None}, *document["tasks"]])

    graph, key = await off_loop(body, read)
    await services.admission.check(len(graph.tasks))
    accepted = await submits.submit(services.database, graph, actor=actor_of(request), key=key)
    answer = SubmittedRun(accepted.run_id, accepted.task_ids, accepted.is_repeat)
    return Response(answer, headers={"location": f"/api/v1/runs/{accepted.run_id}"})


# --- show


@get("/api/v1/runs", responses=refusals(Problem, 422, 503), summary="Runs, newest first", tags=_TAGS)
async def list_runs(
    request: ApiRequest,
    state_: Annotated[RunState | None, QueryParameter(name="state")] = None,
    name: FromQuery[str | None] = None,
    before: OptionalNumber = None,
    limit: Limit = 50,
) -> Runs:
    found = await runs.list_runs(
        services_of(request).database, state=state_, name=printable("name", name), before=before, limit=limit
    )
    return Runs([run_out(run) for run in found], found[-1].id if len(found) == limit else None)


@get("/api/v1/runs/{run_id:str}", responses=refusals(Problem, 404, 422, 503), summary="One run", tags=_TAGS)
async def show_run(
    request: ApiRequest,
    run_id: FromPath[str],
    include: FromQuery[str] = "tasks,edges",
    tasks_limit: LongLimit = 1000,
    edges_limit: LongLimit = 1000,
) -> RunDetails:
    """`include` is any of `tasks` and `edges`, separated by a comma; empty for the run alone."""
    wanted = {part.strip() for part in include.split(",") if part.strip()}
    if not wanted <= {"tasks", "edges"}:
        raise InvalidParameters([not_accepted("include", include, "made of tasks and edges")])
    database, number = services_of(request).database, id_of(run_id, "run")
    run = await runs.get(database, number)
    page = edges = None
    if "tasks" in wanted:
        page = _page(await runs.tasks(database, number, limit=tasks_limit), tasks_limit)
    if "edges" in wanted:
        edges = [Edge(*edge) for edge in await runs.edges(database, number, limit=edges_limit + 1)]
    return RunDetails(
        run=run_out(run),
        tasks=None if page is None else page.tasks,
        next_after=None if page is None else page.next_after,
        edges=None if edges is None else edges[:edges_limit],
        has_more_edges=edges is not None and len(edges) > edges_limit,
    )


@get(
    "/api/v1/runs/{run_id:str}/tasks",
    responses=refusals(Problem, 404, 422, 503),
    summary="Tasks of a run",
    tags=_TAGS,
)
async def list_run_tasks(
    request: ApiRequest,
    run_id: FromPath[str],
    state_: Annotated[TaskState | None, QueryParameter(name="state")] = None,
    after: OptionalNumber = None,
    limit: LongLimit = 1000,
) -> RunTasks:
    database, number = services_of(request).database, id_of(run_id, "run")
    await runs.get(database, number)
    return _page(await runs.tasks(database, number, state=state_, after=after, limit=limit), limit)


def _page(found: list[Task], limit: int) -> RunTasks:
    shown: list[RunTask] = [task_out(task) for task in found]
    return RunTasks(shown, found[-1].id if len(found) == limit else None)


@get(
    "/api/v1/runs/{run_id:str}/tasks/{name:str}",
    responses=refusals(Problem, 404, 503),
    summary="One task with all its attempts",
    tags=_TAGS,
)
async def show_run_task(request: ApiRequest, run_id: FromPath[str], name: FromPath[str]) -> TaskDetails:
    database, number = services_of(request).database, id_of(run_id, "run")
    task = await tasks.get_by_name(database, number, name_of(text_of_segment(name), "task"))
    attempts = await tasks.attempts(database, task.id)
    return TaskDetails(task_out(task), [attempt_out(attempt) for attempt in attempts])


@get(
    "/api/v1/runs/{run_id:str}/logs",
    responses=refusals(Problem, 404, 422, 503),
    summary="Captured output",
    tags=_TAGS,
)
async def list_logs(
    request: ApiRequest,
    run_id: FromPath[str],
    task: FromQuery[str | None] = None,
    limit: LongLimit = 1000,
    offset: Number = 0,
) -> Logs:
    database, number = services_of(request).database, id_of(run_id, "run")
    await runs.get(database, number)
    name = printable("task", task)
    lines = await runs.logs(database, number, task_name=name, limit=limit, offset=offset)
    return Logs(number, [log_line_out(line) for line in lines])


@get(
    "/api/v1/runs/{run_id:str}/events",
    responses=refusals(Problem, 404, 422, 503),
    summary="What happened, in order",
    tags=_TAGS,
)
async def list_events(
    request: ApiRequest,
    run_id: FromPath[str],
    after: EventNumber = 0,
    limit: LongLimit = 1000,
    wait: Annotated[float, QueryParameter(ge=0, le=MAX_WAIT_SECONDS)] = 0.0,
) -> Events:
    """Events numbered above `after`. With `wait`, up to that many seconds pass until there is one."""
    services, number = services_of(request), id_of(run_id, "run")
    await runs.get(services.database, number)
    deadline = time.monotonic() + min(wait, services.options.write_timeout_seconds * _WAIT_SHARE)
    while True:
        found = await runs.events(services.database, number, after=after, limit=limit)
        left = deadline - time.monotonic()
        if found or left <= 0 or services.is_stopping:
            break
        await asyncio.sleep(min(_POLL_SECONDS, left))
    return Events(number, [event_out(event) for event in found], found[-1].number if found else after)


# --- control


_CONTROL: dict[str, Any] = {"status_code": 200, "responses": refusals(Problem, 404, 409, 503), "tags": _TAGS}


@post("/api/v1/runs/{run_id:str}/pause", summary="Start no further attempt until resumed", **_CONTROL)
async def pause_run(request: ApiRequest, run_id: FromPath[str]) -> RunOut:
    number = id_of(run_id, "run")
    return run_out(await runs.hold(services_of(request).database, number, actor=actor_of(request)))


@post("/api/v1/runs/{run_id:str}/resume", summary="Go on after a pause", **_CONTROL)
async def resume_run(request: ApiRequest, run_id: FromPath[str]) -> RunOut:
    number = id_of(run_id, "run")
    return run_out(await runs.resume(services_of(request).database, number, actor=actor_of(request)))


@post(
    "/api/v1/runs/{run_id:str}/cancel",
    status_code=200,
    operation_class=body_operation("CancelIn"),
    responses=refusals(Problem, 400, 404, 409, 413, 503),
    summary="Stop the run",
    tags=_TAGS,
)
async def cancel_run(request: ApiRequest, run_id: FromPath[str]) -> RunOut:
    """Running tasks are told to stop, and say `reason`; no further one starts."""
    number, reason = id_of(run_id, "run"), await read_reason(request)
    database = services_of(request).database
    return run_out(await runs.cancel(database, number, reason=reason, actor=actor_of(request)))


@post("/api/v1/runs/{run_id:str}/retry", summary="Run again what did not succeed", **_CONTROL)
async def retry_run(request: ApiRequest, run_id: FromPath[str]) -> RunOut:
    number = id_of(run_id, "run")
    return run_out(await runs.retry(services_of(request).database, number, actor=actor_of(request)))


@delete(
    "/api/v1/runs/{run_id:str}",
    status_code=204,
    responses=refusals(Problem, 404, 409, 503),
    summary="Remove a finished run",
    tags=_TAGS,
)
async def delete_run(request: ApiRequest, run_id: FromPath[str]) -> None:
    await runs.delete(services_of(request).database, id_of(run_id, "run"), actor=actor_of(request))


ROUTES = [
    submit_run,
    list_runs,
    show_run,
    list_run_tasks,
    show_run_task,
    list_logs,
    list_events,
    pause_run,
    resume_run,
    cancel_run,
    retry_run,
    delete_run,
]
