"""Sagas: what of a failed run has to be undone, in which order, and what came of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from engine.model.graph import Compensation, Dependency, Graph, Rule, TaskSpec
from engine.model.json import JSON
from engine.model.states import FINAL_RUN_STATES, RunState
from engine.model.workflows import FUNCTION

# What a compensation that is a function may take, besides its own parameters.
OFFERED = (
    "_saga_transaction_id",
    "_compensate_step",
    "_total_steps",
    "_task_id",
    "_task_name",
    "_params",
    "_result",
    "_is_unknown",
)


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
    kind: str  # of the task
    is_unknown: bool
    result: JSON  # of the task; null if it is unknown
    params: JSON  # those of the task
    compensation: Compensation


@dataclass(frozen=True, slots=True)
class Skip:
    """Somebody's word that a compensation that failed is not to be run again."""

    actor: str
    reason: str


def saga_state(run: RunState, compensations: RunState | None, *, is_signed_off: bool) -> SagaState:
    """`compensations` is the state of the run that performs them, None if there is none."""
    if run not in FINAL_RUN_STATES:
        return SagaState.PENDING
    if compensations is None:
        return SagaState.COMPENSATED if run is RunState.FAILED else SagaState.COMMITTED
    if compensations is RunState.SUCCEEDED:
        return SagaState.COMPENSATED
    if compensations not in FINAL_RUN_STATES:
        return SagaState.COMPENSATING
    return SagaState.SIGNED_OFF if is_signed_off else SagaState.FAILED


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
    known: tuple[JSON, ...] = (
        str(run_id),
        step,
        steps,
        str(undo.task_id),
        undo.name,
        _own_params(undo),
        undo.result,
        undo.is_unknown,
    )
    return {**params, "offered": dict(zip(OFFERED, known, strict=True))}


def _own_params(undo: Undo) -> JSON:
    """The parameters as the task itself got them: of a function without its name."""
    if undo.kind != FUNCTION or not isinstance(undo.params, dict):
        return undo.params
    return undo.params.get("params") or {}
