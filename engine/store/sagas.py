"""Sagas: what undoes a run is submitted by the transaction that makes the run fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Compensation, plan
from engine.model.retry import RetryPolicy
from engine.model.sagas import Skip, Undo, compensation_graph
from engine.model.states import Move, RunState, TaskState
from engine.model.tally import Change
from engine.store import submits
from engine.store.booked import is_one_of
from engine.store.bookkeeping import record
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import attempt, compensation, edge, event, run, saga, task, task_state
from engine.store.statement import moment_of, statement

ACTOR = "saga"
_ENDS = (str(Move.SUCCEED), str(Move.FAIL), str(Move.CANCEL))
_UNKNOWN = ("timeout", "worker_lost", "cancelled")  # codes of errors after which nobody knows how far it came


@dataclass(frozen=True, slots=True)
class Saga:
    run_id: int
    run_state: RunState
    compensation_run_id: int | None
    compensation_state: RunState | None
    signed_off_at: datetime | None
    signed_off_by: str | None
    reason: str | None
    failed: int  # compensations that failed or were cancelled
    skips: Mapping[int, Skip]  # those of them that are skipped, by the id of the task


def settle(tx: Transaction, run_ids: Iterable[int]) -> None:
    """Submit what undoes those of these runs that have failed: in the transaction that made them fail."""
    for row in _failed_among(tx, run_ids):
        undos = to_undo(tx, row.run_id)
        if not undos:
            continue
        checked = plan(compensation_graph(row.run_id, row.name, undos))
        [submitted] = submits.insert_graphs(tx, [checked], [ACTOR])
        submits.count_submitted(tx, [checked])
        tx.execute(
            sa.update(saga).where(saga.c.run_id == row.run_id).values(compensation_run_id=submitted.run_id)
        )


def _failed_among(tx: Transaction, run_ids: Iterable[int]) -> list[Any]:
    """Of these runs, those that have failed and are not being compensated yet: id and name. Locks them."""
    return tx.execute(_failed(tx.dialect), {"ids": tx.dialect.array(sorted(run_ids))}).all()


@statement
def _failed(dialect: Dialect) -> sa.Select[Any]:
    has_failed = run.c.state == sa.literal_column(repr(str(RunState.FAILED)))
    return (
        sa.select(saga.c.run_id, run.c.name)
        .join_from(saga, run, run.c.id == saga.c.run_id)
        .where(dialect.is_any(saga.c.run_id, "ids"), saga.c.compensation_run_id.is_(None), has_failed)
        .order_by(saga.c.run_id)
        .with_for_update(of=saga)
    )


def to_undo(tx: Transaction, run_id: int) -> list[Undo]:
    """What would be undone if the run failed now, in that order: last ended first."""
    rows = tx.execute(_to_undo(tx.dialect), {"run": run_id}).all()
    undos = []
    for row in rows:
        has_succeeded = row.state == TaskState.SUCCEEDED
        is_unknown = not has_succeeded and (row.error or {}).get("code") in _UNKNOWN
        if not has_succeeded and not is_unknown:
            continue  # it failed, says its own code, or never ran
        policy = RetryPolicy.from_json(row.retry)
        how = Compensation(row.kind, row.params, row.timeout_ms, policy)
        undos.append(Undo(row.id, row.name, row.task_kind, is_unknown, row.result, row.task_params, how))
    return undos


@statement
def _to_undo(dialect: Dialect) -> sa.Select[Any]:
    of_run = event.c.run_id == sa.bindparam("run", type_=event.c.run_id.type)
    # Numbers of events follow the order of commits; of what ended in one transaction the later id is undone
    # first. Times would not do: those of one transaction are equal.
    ended = (
        sa.select(event.c.task_id, sa.func.max(event.c.number).label("number"))
        .where(of_run, is_one_of(event.c.kind, *_ENDS))
        .group_by(event.c.task_id)
        .subquery("ended")
    )
    newest = sa.and_(attempt.c.task_id == task_state.c.task_id, attempt.c.number == task_state.c.attempt)
    return (
        sa.select(
            task.c.id,
            task.c.name,
            task.c.kind.label("task_kind"),
            task.c.params.label("task_params"),
            task_state.c.state,
            attempt.c.result,
            attempt.c.error,
            compensation.c.kind,
            compensation.c.params,
            compensation.c.timeout_ms,
            compensation.c.retry,
        )
        .select_from(ended)
        .join(compensation, compensation.c.task_id == ended.c.task_id)
        .join(task, task.c.id == ended.c.task_id)
        .join(task_state, task_state.c.task_id == ended.c.task_id)
        .join(attempt, newest)
        .order_by(ended.c.number.desc(), task.c.id.desc())
    )


# --- what came of it


def get(tx: Transaction, run_id: int) -> Saga | None:
    other = run.alias("compensations")
    query = (
        sa.select(
            saga,
            run.c.state.label("run_state"),
            other.c.state.label("compensation_state"),
            # Sub-tasks that a compensation awaits count for it alone, as in the verdict on its run.
            sa.func.coalesce(other.c.failed + other.c.cancelled - other.c.awaited, 0).label("failed"),
        )
        .join_from(saga, run, run.c.id == saga.c.run_id)
        .outerjoin(other, other.c.id == saga.c.compensation_run_id)
        .where(saga.c.run_id == run_id)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    return Saga(
        row.run_id,
        RunState(row.run_state),
        row.compensation_run_id,
        None if row.compensation_state is None else RunState(row.compensation_state),
        row.signed_off_at,
        row.signed_off_by,
        row.reason,
        row.failed,
        _skips(row.skipped),
    )


def _skips(written: Sequence[dict[str, Any]] | None) -> dict[int, Skip]:
    return {
        task_id: Skip(decision["actor"], decision["reason"])
        for decision in written or ()
        for task_id in decision["task_ids"]
    }


def sign_off(tx: Transaction, run_id: int, reason: str) -> None:
    now = moment_of(tx.dialect, saga.c.signed_off_at)
    tx.execute(
        sa.update(saga)
        .where(saga.c.run_id == run_id)
        .values(signed_off_at=now, signed_off_by=tx.actor, reason=reason)
    )


def skip(tx: Transaction, run_id: int, task_ids: Sequence[int], reason: str) -> None:
    """The caller owns the run of the compensations: nobody else writes what is skipped meanwhile."""
    before = tx.execute(sa.select(saga.c.skipped).where(saga.c.run_id == run_id)).scalar_one()
    decision = {"task_ids": list(task_ids), "actor": tx.actor, "reason": reason}
    tx.execute(sa.update(saga).where(saga.c.run_id == run_id).values(skipped=[*(before or ()), decision]))


def note(tx: Transaction, run_id: int, kind: str, detail: dict[str, Any]) -> None:
    """Put what somebody decided among the events of the run."""
    record(tx, [Change(run_id, kind, detail=detail)])


def compensating(tx: Transaction, run_id: int) -> int | None:
    """The run that undoes this one, if there is one."""
    query = sa.select(saga.c.compensation_run_id).where(saga.c.run_id == run_id)
    return tx.execute(query).scalar_one_or_none()


def outcomes(tx: Transaction, run_id: int, names: Iterable[str]) -> dict[str, Any]:
    """Of a run of compensations the tasks of these names: id, state, and whether another one awaits it."""
    is_awaited = sa.exists().where(edge.c.parent_id == task.c.id, edge.c.child_id == task.c.parent_id)
    query = (
        sa.select(task.c.id, task.c.name, task_state.c.state, is_awaited.label("is_awaited"))
        .join_from(task, task_state, task_state.c.task_id == task.c.id)
        .where(task.c.run_id == run_id, tx.dialect.is_any(task.c.name, "names"))
    )
    return {row.name: row for row in tx.execute(query, {"names": tx.dialect.array(names)})}


def skipped(tx: Transaction, run_id: int) -> set[int]:
    """Tasks of this run that are not to run again: compensations that are skipped, and their sub-tasks."""
    query = sa.select(saga.c.skipped).where(saga.c.compensation_run_id == run_id)
    found: set[int] = set()
    below = set(_skips(tx.execute(query).scalar_one_or_none()))
    while below := below - found:
        found |= below
        parts = sa.select(task.c.id).where(
            task.c.run_id == run_id, tx.dialect.is_any(task.c.parent_id, "ids")
        )
        below = set(tx.execute(parts, {"ids": tx.dialect.array(sorted(below))}).scalars())
    return found
