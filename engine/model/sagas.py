"""Sagas: what of a failed run has to be undone, in which order, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from engine.model.graph import Compensation, Dependency, Graph, Rule, TaskSpec
from engine.model.json import JSON
from engine.model.states import FINAL_RUN_STATES, RunState
from engine.model.workflows import FUNCTION


class SagaState(StrEnum):
    PENDING = "pending"  # the run goes on
    COMMITTED = "committed"  # it succeeded, or was cancelled: there is nothing to undo
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED = "failed"  # at least one compensation failed
    SIGNED_OFF = "signed_off"  # somebody took care of what failed


@dataclass(frozen=True, slots=True)
class Undo:
    """A task of a failed run that has to be undone: it succeeded, or nobody knows how far it came."""

    task_id: int
    name: str
    is_unknown: bool
    result: JSON  # of the task; null if it is unknown
    params: JSON  # those of the task
    compensation: Compensation


def saga_state(run: RunState, compensations: RunState | None, *, is_signed_off: bool) -> SagaState:
    """`compensations` is the state of the run that performs them, None if there is none."""
    if run not in FINAL_RUN_STATES:
        return SagaState.PENDING
    if compensations is None:
        return SagaState.COMPENSATED if run is RunState.FAILED else SagaState.COMMITTED
    if compensations is RunState.SUCCEEDED:
        return SagaState.COMPENSATED
    if is_signed_off:
        return SagaState.SIGNED_OFF
    return SagaState.FAILED if compensations in FINAL_RUN_STATES else SagaState.COMPENSATING


def compensation_graph(run_id: int, name: str | None, undos: Sequence[Undo]) -> Graph:
    """One task for each of `undos`, in that order: one after the other, whatever comes of those before."""
    tasks = [
        TaskSpec(
            name=undo.name,
            kind=undo.compensation.kind,
            params=_params(run_id, undo, step, len(undos)),
            depends_on=(Dependency(undos[step - 2].name),) if step > 1 else (),
            rule=Rule.ALL_DONE if step > 1 else Rule.ALL_SUCCESS,
            timeout_ms=undo.compensation.timeout_ms,
            retry=undo.compensation.retry,
            client={"compensates": undo.task_id},
        )
        for step, undo in enumerate(undos, 1)
    ]
    label = f"compensation of {name or f'run {run_id}'}"
    return Graph(tuple(tasks), name=label[:200], labels={"compensates": str(run_id)})


def _params(run_id: int, undo: Undo, step: int, steps: int) -> JSON:
    params = undo.compensation.params
    if undo.compensation.kind != FUNCTION or not isinstance(params, dict):
        return params
    given: dict[str, Any] = params.get("params") or {}
    known = {
        "_saga_transaction_id": str(run_id),
        "_compensate_step": step,
        "_total_steps": steps,
        "_task_id": str(undo.task_id),
        "_task_name": undo.name,
        "_params": undo.params,
        "_result": undo.result,
        "_is_unknown": undo.is_unknown,
    }
    return {**params, "params": {**given, **known}}
