"""Callbacks: functions that a workflow names for what becomes of its tasks. Each call is a task. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.model.graph import DEFAULT_QUEUE, MAX_NAME, Dependency, Graph, Limit, Rule, TaskSpec
from engine.model.happenings import Happening
from engine.model.json import JSON
from engine.model.retry import ONCE
from engine.model.run_defaults import NO_OPTIONS, FunctionOptions
from engine.model.states import Move
from engine.model.workflows import FUNCTION, CallbackState, Workflow

MAX_RESULT = 1024 * 1024  # characters of a result as JSON; of a larger one callbacks are told the size
_TIMEOUT_MS = 30_000
_ENDS = frozenset({str(Move.SUCCEED), str(Move.FAIL)})
Named = Mapping[str, Mapping[str, Sequence[str]]]  # task → state → functions in declared order


@dataclass(frozen=True, slots=True)
class Settled:
    """A task that has ended for good."""

    task_id: int
    name: str
    params: JSON  # as its function got them, before references were resolved
    result: JSON
    omitted: int | None  # characters of a result that is too large to be told
    error: Mapping[str, Any] | None  # None: it succeeded


def named(workflow: Workflow) -> Named:
    """The callbacks of a workflow; empty if it has none."""
    found: dict[str, dict[str, list[str]]] = {}
    for task in workflow.tasks:
        for callback in task.callbacks:
            found.setdefault(task.name, {}).setdefault(str(callback.state), []).append(callback.function)
    return found


def kinds(callbacks: Named) -> set[str]:
    """Kinds of the event rows that the callbacks have to be told of."""
    return set(_ENDS) if callbacks else set()


def settled(happening: Happening) -> Settled | None:
    """The task that ended for good in this event, if one did."""
    if happening.kind not in _ENDS or happening.task_id is None or happening.name is None:
        return None
    error = None if happening.kind == Move.SUCCEED else happening.error or {}
    size = happening.result_size or 0
    omitted = size if happening.result is None and size > MAX_RESULT else None
    return Settled(happening.task_id, happening.name, happening.params, happening.result, omitted, error)


def functions(callbacks: Named) -> set[str]:
    return {name for mine in callbacks.values() for every in mine.values() for name in every}


def calls(
    run_id: int,
    workflow_id: str,
    callbacks: Named,
    settled: Settled,
    options: Mapping[str, FunctionOptions] | None = None,
) -> Graph | None:
    """One task for each function, in order, whatever becomes of those before, as its `options` say. None if
    there is none."""
    mine = callbacks.get(settled.name, {})
    state = _state(settled, mine)
    called = mine.get(state, ())
    if not called:
        return None
    params = {**_told(settled, state), "_workflow_id": workflow_id, "_workflow_instance_id": str(run_id)}
    names = [f"{function} {number}"[-MAX_NAME:] for number, function in enumerate(called, 1)]
    tasks = [
        replace(
            _call(name, {"function": function, "offered": params}, (options or {}).get(function, NO_OPTIONS)),
            depends_on=(Dependency(names[place - 1]),) if place else (),
            rule=Rule.ALL_DONE if place else Rule.ALL_SUCCESS,
            client={"workflow_id": workflow_id},
        )
        for place, (name, function) in enumerate(zip(names, called, strict=True))
    ]
    label = f"{state} of {settled.name}"[:MAX_NAME]
    return Graph(tuple(tasks), name=label, labels={"callback_of": str(run_id)})


def _call(name: str, params: JSON, own: FunctionOptions) -> TaskSpec:
    return TaskSpec(
        name,
        FUNCTION,
        params,
        timeout_ms=own.timeout_ms or _TIMEOUT_MS,
        retry=own.retry or ONCE,
        queue=own.queue or DEFAULT_QUEUE,
        priority=own.priority or 0,
        limits=tuple(Limit(key, at_most) for key, at_most in (own.limits or {}).items()),
    )


def _state(settled: Settled, mine: Mapping[str, Any]) -> str:
    if settled.error is None:
        return CallbackState.SUCCESS
    is_timeout = settled.error.get("code") == "timeout" and CallbackState.TIMEOUT in mine
    return CallbackState.TIMEOUT if is_timeout else CallbackState.FAILED


def _told(settled: Settled, state: str) -> dict[str, Any]:
    own = settled.params.get("params") if isinstance(settled.params, dict) else None
    told: dict[str, Any] = {
        **(own if isinstance(own, dict) else {}),
        "_task_id": str(settled.task_id),
        "_task_name": settled.name,
        "_status": state.upper(),
        "_previous_status": "RUNNING",
    }
    if settled.error is None:
        told |= {"result": settled.result, "_result_data": settled.result}
        return told if settled.omitted is None else {**told, "_result_omitted": settled.omitted}
    message = settled.error.get("message")
    return {**told, "error": message, "_error_message": message}
