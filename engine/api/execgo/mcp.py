"""Routes of the ExecGo contract for direct MCP calls. A call is a run of one task, so it outlives us."""

from __future__ import annotations

import asyncio
import time

import msgspec
from litestar import get, post
from litestar.exceptions import ServiceUnavailableException
from litestar.params import FromPath

from engine.api.answers import ErrorBody
from engine.api.bodies import check_size, check_values, decode, read_small_body
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.execgo.translation import CONTRACT, MCP, MCP_CONTRACT, handle_out, limit_of, task_of_handle
from engine.api.execgo.wire import HandleOut, McpCallIn, Tool, Tools
from engine.api.options import ApiRequest, Services, actor_of, services_of
from engine.errors import NotFound
from engine.model.graph import Graph, TaskSpec
from engine.model.records import Task
from engine.model.states import FINAL_TASK_STATES
from engine.operations import submits, tasks

_calls = msgspec.json.Decoder(McpCallIn)
_LOOKS_SECONDS = (0.01, 0.03)  # an echo is usually done by then; nothing depends on it
_TOOLS = Tools([Tool("mcp.execute", "mcp", "Execute MCP task and return handle", {"type": "object"})])


@get("/mcp/tools", responses=refusals(ErrorBody, 503), summary="MCP tools", tags=["ExecGo"])
async def list_tools(request: ApiRequest) -> Tools:
    _require_executor(services_of(request))
    return _TOOLS


@post(
    "/mcp/call",
    status_code=202,
    operation_class=body_operation("McpCallIn"),
    responses=refusals(ErrorBody, 400, 413, 503),
    summary="Call an MCP tool",
    tags=["ExecGo"],
)
async def call_tool(request: ApiRequest) -> HandleOut:
    """Answers with a handle to poll; the snapshot may already be the end."""
    services = services_of(request)
    body = await read_small_body(request)
    call = decode(_calls, body)
    _require_executor(services)
    check_values("call", call.input, call.tool_name, call.id)
    check_size("input", body, call.input)
    await services.admission.check(1)
    handle = f"mcp-{time.time_ns()}"
    accepted = await submits.submit(
        services.database, _graph(call, handle), actor=actor_of(request), contract=MCP_CONTRACT
    )
    return handle_out(await _look(services, accepted.task_ids[handle]), handle)


def _graph(call: McpCallIn, handle: str) -> Graph:
    client = {"type": MCP, "tool_name": call.tool_name or "", "task_id": call.id or ""}
    task = TaskSpec(handle, MCP, call.input, timeout_ms=limit_of(call.timeout), client=client)
    return Graph((task,), name=handle)


async def _look(services: Services, task_id: int) -> Task:
    for seconds in _LOOKS_SECONDS:
        await asyncio.sleep(seconds)
        task = await tasks.get(services.database, task_id)
        if task.state in FINAL_TASK_STATES:
            break
    return task


@get(
    "/mcp/tasks/{handle:str}",
    responses=refusals(ErrorBody, 404, 503),
    summary="How an MCP call stands",
    tags=["ExecGo"],
)
async def show_call(request: ApiRequest, handle: FromPath[str]) -> HandleOut:
    services = services_of(request)
    _require_executor(services)
    handle = text_of_segment(handle)
    try:
        return handle_out(await _task_of(services, handle), handle)
    except NotFound:
        raise NotFound(f"handle not found: {handle}") from None


async def _task_of(services: Services, handle: str) -> Task:
    task_id = task_of_handle(handle)
    if task_id is None:
        return await tasks.get_aliased(services.database, MCP_CONTRACT, handle)
    task = await tasks.get(services.database, task_id)
    seen = await tasks.get_aliased(services.database, CONTRACT, task.name)
    if seen.id != task_id or task.kind != MCP:
        raise NotFound(f"handle not found: {handle}")
    return task


def _require_executor(services: Services) -> None:
    if MCP not in services.registry:
        raise ServiceUnavailableException("mcp executor is not available")


ROUTES = [list_tools, call_tool, show_call]
