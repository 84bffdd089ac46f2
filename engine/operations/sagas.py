"""Sagas: what would be undone, what came of it, and what people do about compensations that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.errors import Conflict, InvalidInput, NotFound
from engine.model.json import check_storable
from engine.model.records import Task
from engine.model.sagas import SagaState, Skip, Undo, saga_state
from engine.model.states import TaskState
from engine.operations import runs
from engine.store import queries, sagas
from engine.store.database import Database, Transaction

_PAGE = 1_000
_NOTED = 100  # names in an event
_FAILED = frozenset({TaskState.FAILED, TaskState.CANCELLED})


@dataclass(frozen=True, slots=True)
class SagaReport:
    """`compensations` are the tasks that undo, in their order; before there are any, `undos` says what they
    would be if the run failed now. `skips` has those that are skipped, by id."""

    run_id: int
    state: SagaState
    compensation_run_id: int | None
    undos: list[Undo]
    compensations: list[Task]
    signed_off_by: str | None = None
    reason: str | None = None
    skips: Mapping[int, Skip] = field(default_factory=dict)


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
        found.skips,
    )


def _saga(tx: Transaction, run_id: int) -> sagas.Saga:
    found = sagas.get(tx, run_id)
    if found is None:
        if queries.get_run(tx, run_id) is None:
            raise NotFound(f"run not found: {run_id}")
        raise NotFound(f"run {run_id} is no saga: none of its tasks has a compensation")
    return found


def _state(found: sagas.Saga) -> SagaState:
    are_all_skipped = 0 < found.failed <= len(found.skips)
    return saga_state(
        found.run_state,
        found.compensation_state,
        is_signed_off=found.signed_off_at is not None or are_all_skipped,
    )


async def retry(database: Database, run_id: int, *, actor: str = "local") -> SagaReport:
    """Run the compensations that failed once more, but for skipped ones. Raises `Conflict` without any."""
    await database.run(_retry, run_id, actor=actor)
    return await get(database, run_id)


def _retry(tx: Transaction, run_id: int) -> None:
    _, compensation_run_id = _own_failed(tx, run_id, "a failed one can be retried")
    runs.retry_within(tx, compensation_run_id)


async def skip(
    database: Database, run_id: int, names: Iterable[str], *, reason: str, actor: str = "local"
) -> SagaReport:
    """Declare of single compensations that failed that nobody will perform them any more.

    Raises `Conflict` unless the saga has failed, `NotFound` for what is no compensation of it, `InvalidInput`
    for one that did not fail or is skipped; then none is skipped.
    """
    named = list(dict.fromkeys(names))
    _check_text(reason, *named)
    await database.run(_skip, run_id, named, reason, actor=actor)
    return await get(database, run_id)


def _skip(tx: Transaction, run_id: int, names: list[str], reason: str) -> None:
    found, compensation_run_id = _own_failed(tx, run_id, "compensations of a failed one can be skipped")
    outcomes = sagas.outcomes(tx, compensation_run_id, names)
    if not names:
        raise InvalidInput("name at least one compensation that is to be skipped")
    for name in names:
        if (task := outcomes.get(name)) is None:
            raise NotFound(f"run {run_id} has no compensation of task {name!r}")
        if task.id in found.skips:
            raise InvalidInput(f"the compensation of task {name!r} is skipped already")
        if task.state not in _FAILED:
            raise InvalidInput(
                f"the compensation of task {name!r} is {task.state}; only one that failed can be skipped"
            )
        if task.is_awaited:
            raise InvalidInput(f"{name!r} is a part of another compensation, which can be skipped")
    sagas.skip(tx, run_id, [outcomes[name].id for name in names], reason)
    sagas.note(tx, run_id, "saga.skipped", {"reason": reason, "skipped": names[:_NOTED]})


async def sign_off(database: Database, run_id: int, *, reason: str, actor: str = "local") -> SagaReport:
    """Declare that somebody has taken care of the compensations that failed. Raises `Conflict` otherwise."""
    _check_text(reason)
    await database.run(_sign_off, run_id, reason, actor=actor)
    return await get(database, run_id)


def _sign_off(tx: Transaction, run_id: int, reason: str) -> None:
    _, compensation_run_id = _own_failed(tx, run_id, "a failed one can be signed off")
    sagas.sign_off(tx, run_id, reason)
    failed = queries.list_tasks(tx, compensation_run_id, state=TaskState.FAILED, limit=_NOTED)
    sagas.note(tx, run_id, "saga.signed_off", {"reason": reason, "failed": [task.name for task in failed]})


def _own_failed(tx: Transaction, run_id: int, what: str) -> tuple[sagas.Saga, int]:
    """A failed saga and the run of its compensations, which nobody retries meanwhile."""
    compensation_run_id = _saga(tx, run_id).compensation_run_id
    if compensation_run_id is not None:
        tx.dialect.own_runs(tx, [compensation_run_id])
    found = _saga(tx, run_id)  # as it is now that nobody else changes it
    if _state(found) is not SagaState.FAILED or compensation_run_id is None:
        raise Conflict(f"the saga of run {run_id} is {_state(found)}; only {what}")
    return found, compensation_run_id


def _check_text(*texts: str) -> None:
    try:
        check_storable(list(texts))
    except ValueError as error:
        raise InvalidInput(f"the text cannot be stored: {error}") from None
