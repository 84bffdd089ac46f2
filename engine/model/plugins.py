"""Plug-ins: objects that are told what becomes of workflows and of their tasks. Each call is a task. Pure.

A binding says which plug-in is called at which event. The parameters of the task that calls it are
`{"plugin": name, "params": {…}, "data": {…}}`; a binding's condition reads `data` by the names in it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from engine.errors import GraphError, InvalidInput
from engine.model.graph import MAX_NAME, Graph, TaskSpec, check_name
from engine.model.happenings import Happening, Scope
from engine.model.inputs import Inputs
from engine.model.json import JSON, Unstorable, check_storable
from engine.model.retry import RetryPolicy
from engine.model.similar import near
from engine.model.states import FINAL_RUN_STATES, Move, RunState

KIND = "plugin"
MAX_ID = 150  # characters; with the number of an event in front it is the name of a task
MAX_PARAMS_BYTES = 64 * 1024
MAX_RESULT_BYTES = 32 * 1024  # of a task; a larger one is not told
RETRY = RetryPolicy(max_attempts=5, factor=4.0, max_ms=600_000)  # after 1 s, 4 s, 16 s and 64 s
TIMEOUT_MS = 60_000


class PluginEvent(StrEnum):
    """What a plug-in can be told of, in the words of the contract (section 5.4)."""

    WORKFLOW_STARTED = "workflow.started"
    WORKFLOW_COMPLETED = "workflow.completed"
    WORKFLOW_FAILED = "workflow.failed"
    WORKFLOW_PAUSED = "workflow.paused"
    WORKFLOW_RESUMED = "workflow.resumed"
    WORKFLOW_TERMINATED = "workflow.terminated"
    TASK_STARTED = "task.started"  # each attempt
    TASK_SUCCESS = "task.success"
    TASK_FAILED = "task.failed"  # for good
    TASK_TIMEOUT = "task.timeout"  # likewise, because its last attempt ran out of time
    TASK_RETRYING = "task.retrying"  # an attempt failed or its worker was lost, and another one follows

    @property
    def is_of_task(self) -> bool:
        return self.startswith("task.")


_OF_RUNS = {
    "run.started": PluginEvent.WORKFLOW_STARTED,
    f"run.{RunState.SUCCEEDED}": PluginEvent.WORKFLOW_COMPLETED,
    f"run.{RunState.FAILED}": PluginEvent.WORKFLOW_FAILED,
    "run.paused": PluginEvent.WORKFLOW_PAUSED,
    "run.resumed": PluginEvent.WORKFLOW_RESUMED,
    f"run.{RunState.CANCELLED}": PluginEvent.WORKFLOW_TERMINATED,
}
_STATUS = {
    PluginEvent.WORKFLOW_STARTED: "Running",
    PluginEvent.WORKFLOW_COMPLETED: "Success",
    PluginEvent.WORKFLOW_FAILED: "Failed",
    PluginEvent.WORKFLOW_PAUSED: "Paused",
    PluginEvent.WORKFLOW_RESUMED: "Running",
    PluginEvent.WORKFLOW_TERMINATED: "Terminated",
    PluginEvent.TASK_STARTED: "Running",
    PluginEvent.TASK_SUCCESS: "Success",
    PluginEvent.TASK_FAILED: "Failed",
    PluginEvent.TASK_TIMEOUT: "TimeoutFailed",
    PluginEvent.TASK_RETRYING: "Pending",
}
_RUN_STATUS = {
    RunState.PENDING: "Ready",
    RunState.RUNNING: "Running",
    RunState.PAUSED: "Paused",
    RunState.SUCCEEDED: "Success",
    RunState.FAILED: "Failed",
    RunState.CANCELLED: "Terminated",
}
_KINDS: Mapping[PluginEvent, Collection[str]] = {
    **{word: (kind,) for kind, word in _OF_RUNS.items()},
    PluginEvent.TASK_STARTED: (Move.CLAIM,),
    PluginEvent.TASK_SUCCESS: (Move.SUCCEED,),
    PluginEvent.TASK_FAILED: (Move.FAIL,),
    PluginEvent.TASK_TIMEOUT: (Move.FAIL,),
    PluginEvent.TASK_RETRYING: (Move.RETRY, Move.RETRY_HELD),
}
_TRIED = frozenset({"failed", "crashed"})  # outcomes after which a task is retried; a release is none


@dataclass(frozen=True, slots=True)
class Binding:
    """Call `plugin` at each `event` of a workflow, or of all. `created_at` is None until it is kept."""

    id: str
    plugin: str
    event: PluginEvent
    condition: str | None = None  # CEL over what `names_of` says; without one at each event
    params: Mapping[str, JSON] = field(default_factory=dict)
    workflow_id: str | None = None
    is_enabled: bool = True
    created_at: datetime | None = None

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Binding:
        """From `{"plugin", "event", "condition"?, "params"?, "workflow_id"?, "is_enabled"?, "id"?}`.

        The id is made of the first two and the workflow unless there is one. Raises `InvalidInput`.
        """
        if not isinstance(document, Mapping):
            raise InvalidInput(f"a binding is an object with plugin and event, got {type(document).__name__}")
        for name in document:
            if name not in _GIVEN:
                raise InvalidInput(f'binding: unknown field "{name!s:.80}"{near(str(name), _GIVEN)}')
        plugin = _text(document, "plugin")
        event = _event(document.get("event"))
        workflow_id = _text(document, "workflow_id") if document.get("workflow_id") is not None else None
        parts = [plugin, str(event), *([workflow_id] if workflow_id else [])]
        made = cls(
            id=_text(document, "id") if document.get("id") is not None else ":".join(parts),
            plugin=plugin,
            event=event,
            condition=_text(document, "condition") if document.get("condition") is not None else None,
            params=_params(document.get("params")),
            workflow_id=workflow_id,
            is_enabled=_flag(document.get("is_enabled", True)),
        )
        _check_id(made.id)
        return made


_GIVEN = tuple(each.name for each in fields(Binding) if each.name != "created_at")


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"binding: {name} is a text that is not blank, got {value!r:.80}")
    try:
        check_storable(value)
    except Unstorable as error:
        raise InvalidInput(f"binding: {name}: {error}") from None
    return value


def _event(value: Any) -> PluginEvent:
    try:
        return PluginEvent(value)
    except ValueError:
        hint = near(value, map(str, PluginEvent)) if isinstance(value, str) else ""
        raise InvalidInput(f"binding: unknown event {value!r:.80}{hint}") from None


def _params(value: Any) -> dict[str, JSON]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(f"binding: params is an object, got {type(value).__name__}")
    params = dict(value)
    try:
        check_storable(params)
    except Unstorable as error:
        raise InvalidInput(f"binding: params cannot be stored: {error}") from None
    if (size := len(json.dumps(params))) > MAX_PARAMS_BYTES:
        raise InvalidInput(f"binding: params has {size} bytes, the limit is {MAX_PARAMS_BYTES}")
    return params


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"binding: is_enabled is true or false, got {value!r:.80}")
    return value


def _check_id(binding_id: str) -> None:
    try:
        check_name(binding_id, "id")
    except GraphError as error:
        raise InvalidInput(f"binding: {error}") from None
    if len(binding_id) > MAX_ID:
        raise InvalidInput(
            f"binding: id has {len(binding_id)} characters, the limit is {MAX_ID}; give it a shorter one"
        )


# --- events


def names_of(event: PluginEvent) -> tuple[str, ...]:
    """What a condition can read; `task` is there for events of tasks only."""
    return ("event", "workflow", "error", *(("task",) if event.is_of_task else ()))


def kinds(bindings: Iterable[Binding]) -> set[str]:
    """Kinds of the event rows that the bindings have to be told of."""
    return {str(kind) for binding in bindings for kind in _KINDS[binding.event]}


def event_of(happening: Happening) -> PluginEvent | None:
    """The contract's word for an event; None for one that it has no word for."""
    if happening.task_id is None:
        return _OF_RUNS.get(happening.kind)
    match happening.kind:
        case Move.CLAIM:
            return PluginEvent.TASK_STARTED
        case Move.SUCCEED:
            return PluginEvent.TASK_SUCCESS
        case Move.FAIL:
            is_timeout = (happening.error or {}).get("code") == "timeout"
            return PluginEvent.TASK_TIMEOUT if is_timeout else PluginEvent.TASK_FAILED
        case Move.RETRY | Move.RETRY_HELD if happening.outcome in _TRIED:
            return PluginEvent.TASK_RETRYING
        case _:
            return None


def calls(scope: Scope, bindings: Sequence[Binding], happening: Happening) -> list[TaskSpec]:
    """One task for each binding that the event concerns, independent of each other."""
    event = event_of(happening)
    concerned = [binding for binding in bindings if binding.event is event]
    if event is None or not concerned:
        return []
    data = told(scope, event, happening)
    return [_call(scope, binding, happening.number, data) for binding in concerned]


def graph(scope: Scope, tasks: Sequence[TaskSpec]) -> Graph:
    """The run that makes calls."""
    name = f"plug-ins of {scope.workflow_name}"[:MAX_NAME]
    return Graph(tuple(tasks), name=name, labels={"plugins_of": str(scope.run_id)})


def _call(scope: Scope, binding: Binding, number: int, data: dict[str, JSON]) -> TaskSpec:
    condition = None
    if binding.condition is not None:
        condition = Inputs(condition=binding.condition, at=("data",), names=names_of(binding.event)).to_json()
    return TaskSpec(
        f"{number} {binding.id}",
        KIND,
        {"plugin": binding.plugin, "params": dict(binding.params), "data": data},
        timeout_ms=TIMEOUT_MS,
        retry=RETRY,
        client={"workflow_id": scope.workflow_id, "binding": binding.id},
        inputs=condition,
    )


def told(scope: Scope, event: PluginEvent, happening: Happening) -> dict[str, JSON]:
    """What a plug-in is told of an event, and what conditions read. Counts are those of now."""
    # The attempt of a start may have ended since: that is another event.
    error = {} if event is PluginEvent.TASK_STARTED else happening.error or {}
    message = error.get("message")
    if event is PluginEvent.WORKFLOW_FAILED:
        message = scope.error
    return {
        "event": str(event),
        "number": happening.number,
        "at": happening.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "workflow": {
            "id": scope.workflow_id,
            "name": scope.workflow_name,
            "version": scope.version,
            "instance_id": str(scope.run_id),
            "status": _STATUS[event] if not event.is_of_task else _RUN_STATUS[scope.state],
            "total_tasks": scope.total,
            "completed": scope.succeeded,
            "failed": scope.failed,
        },
        "task": _task(event, happening) if event.is_of_task else None,
        "error": {"code": str(error.get("code") or ""), "message": str(message or "")},
    }


def _task(event: PluginEvent, happening: Happening) -> dict[str, JSON]:
    result = happening.result if event is PluginEvent.TASK_SUCCESS else None
    return {
        "id": str(happening.task_id),
        "name": happening.name,
        "kind": happening.task_kind,
        "attempt": happening.attempt,
        "status": _STATUS[event],
        "result": result if len(json.dumps(result)) <= MAX_RESULT_BYTES else None,
    }


def is_over(scope: Scope, number: int) -> bool:
    """Whether everything has been told once event `number` has: nothing more comes unless it is retried."""
    return scope.state in FINAL_RUN_STATES and number >= scope.events
