"""Routes of the ExecGo contract for agent adapters."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import get, post
from litestar.exceptions import ClientException

from engine.api.answers import ErrorBody
from engine.api.bodies import decode, large_in_hand, off_loop, read_submit_body
from engine.api.documents import body_operation, refusals
from engine.api.execgo.adapter_translation import (
    ACTION_KINDS,
    NOTES,
    PROFILES,
    SCHEMA,
    TOOLS,
    Translated,
    translate,
)
from engine.api.execgo.tasks import accept, kinds_of
from engine.api.execgo.translation import ALIASES, CONTRACT, OS, Kinds, graph_of, task_out
from engine.api.execgo.wire import (
    AdapterAnswer,
    AdapterCapabilities,
    AdapterRequestIn,
    AdapterTool,
    AdapterTools,
    TaskGraphOut,
    TaskIn,
    TaskOut,
    TranslationTrace,
)
from engine.api.options import ApiRequest, services_of
from engine.errors import GraphError, TooLarge
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Graph
from engine.operations import submits, tasks

_requests = msgspec.json.Decoder(AdapterRequestIn)
_ZERO_TIME = "0001-01-01T00:00:00Z"
_CAPABILITIES = AdapterCapabilities(SCHEMA, PROFILES, ACTION_KINDS, NOTES)


@get("/adapters/capabilities", summary="What the adapters understand", tags=["ExecGo"])
async def capabilities(request: ApiRequest) -> AdapterCapabilities:
    return _CAPABILITIES


@get("/adapters/tools", summary="Tools for agents", tags=["ExecGo"])
async def adapter_tools(request: ApiRequest) -> AdapterTools:
    registry = services_of(request).registry
    return AdapterTools(
        SCHEMA,
        [
            AdapterTool(
                name, action, category, description, _schema(registry, action), list(aliases) or msgspec.UNSET
            )
            for name, action, category, description, aliases in TOOLS
        ],
    )


def _schema(registry: ExecutorRegistry, action: str) -> dict[str, Any]:
    """Of the input that an action takes. The contract's own tools take any object; ours say which."""
    family, _, tool = action.partition(".")
    kind = {"os": tool, "cli": "cli-skills"}.get(family, "")
    return registry.schema(kind) if kind in registry else {"type": "object"}


@post(
    "/adapters/translate",
    status_code=200,
    operation_class=body_operation("AdapterRequestIn"),
    responses=refusals(ErrorBody, 400, 413),
    summary="Show which tasks an action becomes; stores nothing",
    tags=["ExecGo"],
)
async def translate_action(request: ApiRequest) -> AdapterAnswer:
    asked, translated, graph = await _read(request, await read_submit_body(request))
    shown = [_draft(task) for task in translated.tasks]
    _check(graph)
    return _answer(asked, translated, shown, accepted=0)


@post(
    "/adapters/actions",
    status_code=202,
    operation_class=body_operation("AdapterRequestIn"),
    responses=refusals(ErrorBody, 400, 413, 503),
    summary="Submit an action",
    tags=["ExecGo"],
)
async def submit_action(request: ApiRequest) -> AdapterAnswer:
    body = await read_submit_body(request)
    with large_in_hand(body):
        return await _submit(request, body)


async def _submit(request: ApiRequest, body: bytes) -> AdapterAnswer:
    asked, translated, graph = await _read(request, body)
    _check(graph)
    run_id = await accept(request, graph)
    stored = await tasks.list_aliased(services_of(request).database, CONTRACT, run_id=run_id)
    shown = [task_out(task, kinds_of(request)) for task in stored]
    return _answer(asked, translated, shown, accepted=len(graph.tasks))


async def _read(request: ApiRequest, body: bytes) -> tuple[AdapterRequestIn, Translated, Graph]:
    kinds: Kinds = kinds_of(request)

    def read() -> tuple[AdapterRequestIn, Translated, Graph]:
        asked = decode(_requests, body)
        translated = translate(asked)
        return asked, translated, graph_of(translated.tasks, kinds, body)

    return await off_loop(body, read)


def _check(graph: Graph) -> None:
    """The rules of graphs, in the words of this part of the contract."""
    try:
        submits.check(graph)
    except (GraphError, TooLarge) as error:
        raise ClientException(f"invalid adapter action: {error}") from None


def _draft(task: TaskIn) -> TaskOut:
    """A task that is not stored: no status, no times, already normalised."""
    is_alias = task.type in ALIASES
    values: dict[str, Any] = {"params": task.params, "input": task.input}
    if is_alias and task.input is msgspec.UNSET:
        values["input"] = task.params
    return TaskOut(
        id=task.id or "",
        type=OS if is_alias else task.type or "",
        status="",
        created_at=_ZERO_TIME,
        updated_at=_ZERO_TIME,
        tool_name=(task.type if is_alias else task.tool_name) or msgspec.UNSET,
        execution_category=(OS if is_alias else task.execution_category) or msgspec.UNSET,
        depends_on=task.depends_on or msgspec.UNSET,
        retry=task.retry or msgspec.UNSET,
        timeout=task.timeout or msgspec.UNSET,
        annotations=task.annotations or msgspec.UNSET,
        **values,
    )


def _answer(
    asked: AdapterRequestIn, translated: Translated, shown: list[TaskOut], *, accepted: int
) -> AdapterAnswer:
    task_ids = [task.id for task in shown]
    trace = TranslationTrace(
        schema_version=SCHEMA,
        adapter=translated.adapter,
        agent_id=asked.agent_id or "",
        session_id=asked.session_id or "",
        action_id=asked.action_id or "",
        source_kind=translated.source_kind,
        normalized_kind=translated.kind,
        task_ids=task_ids,
    )
    return AdapterAnswer(accepted, task_ids, TaskGraphOut(shown), trace)


ROUTES = [capabilities, adapter_tools, translate_action, submit_action]
