"""Sagas: what would be undone, what came of it, and what people do about compensations that failed."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import Conflict, NotFound
from engine.model.records import Task
from engine.model.sagas import SagaState, Undo, saga_state
from engine.model.states import TaskState
from engine.operations import runs
from engine.store import queries, sagas
from engine.store.database import Database, Transaction

_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class SagaReport:
    """`compensations` are the tasks that undo, in their order; before there are any, `undos` says what they
    would be if the run failed now."""

    run_id: int
    state: SagaState
    compensation_run_id: int | None
    undos: list[Undo]
    compensations: list[Task]
    signed_off_by: str | None = None
    reason: str | None = None


async def get(database: Database, run_id: int) -> SagaReport:
    """Raises `NotFound` if there is no such run or none of its tasks has a compensation."""
    return await database.read(_get, run_id)


def _get(tx: Transaction, run_id: int) -> SagaReport:
    found = _saga(tx, run_id)
    compensations: list[Task] = []
    undos: list[Undo] = []
    if found.compensation_run_id is not None:
        compensations = queries.list_tasks(tx, found.compensation_run_id, limit=_PAGE)
    elif _state(found) in (SagaState.PENDING, SagaState.COMMITTED):
        undos = sagas.to_undo(tx, run_id)
    return SagaReport(
        run_id,
        _state(found),
        found.compensation_run_id,
        undos,
        compensations,
        found.signed_off_by,
        found.reason,
    )


def _saga(tx: Transaction, run_id: int) -> sagas.Saga:
    found = sagas.get(tx, run_id)
    if found is None:
        if queries.get_run(tx, run_id) is None:
            raise NotFound(f"run not found: {run_id}")
        raise NotFound(f"run {run_id} is no saga: none of its tasks has a compensation")
    return found


def _state(found: sagas.Saga) -> SagaState:
    return saga_state(
        found.run_state, found.compensation_state, is_signed_off=found.signed_off_at is not None
    )


async def retry(database: Database, run_id: int, *, actor: str = "local") -> SagaReport:
    """Run the compensations that failed once more. Raises `Conflict` unless some have failed."""
    found = await database.read(_saga, run_id)
    if _state(found) is not SagaState.FAILED or found.compensation_run_id is None:
        raise Conflict(f"the saga of run {run_id} is {_state(found)}; only a failed one can be retried")
    await runs.retry(database, found.compensation_run_id, actor=actor)
    return await get(database, run_id)


async def sign_off(database: Database, run_id: int, *, reason: str, actor: str = "local") -> SagaReport:
    """Declare that somebody has taken care of the compensations that failed. Raises `Conflict` otherwise."""
    await database.run(_sign_off, run_id, reason, actor=actor)
    return await get(database, run_id)


def _sign_off(tx: Transaction, run_id: int, reason: str) -> None:
    found = _saga(tx, run_id)
    if _state(found) is not SagaState.FAILED or found.compensation_run_id is None:
        raise Conflict(f"the saga of run {run_id} is {_state(found)}; only a failed one can be signed off")
    sagas.sign_off(tx, run_id, reason)
    failed = queries.list_tasks(tx, found.compensation_run_id, state=TaskState.FAILED, limit=_PAGE)
    sagas.note(tx, run_id, {"reason": reason, "failed": [task.name for task in failed][:100]})
