"""Runs whose events somebody has to be told of, and how far that has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from engine.model.callbacks import Settled
from engine.model.states import Move
from engine.store.database import Transaction
from engine.store.schema import attempt, event, relay, run, task

_ENDS = (str(Move.SUCCEED), str(Move.FAIL))


@dataclass(frozen=True, slots=True)
class Relay:
    """`number` is the last event that was dealt with."""

    run_id: int
    number: int
    workflow_id: str
    callbacks: Mapping[str, Any]


def insert(tx: Transaction, run_id: int, workflow_id: str, callbacks: Mapping[str, Any]) -> None:
    tx.execute(
        sa.insert(relay).values(run_id=run_id, number=0, workflow_id=workflow_id, callbacks=dict(callbacks))
    )


def to_do(tx: Transaction, limit: int) -> list[int]:
    """Runs with events that were not dealt with."""
    query = (
        sa.select(relay.c.run_id)
        .join(run, run.c.id == relay.c.run_id)
        .where(run.c.event_count > relay.c.number)
        .order_by(relay.c.run_id)
        .limit(limit)
    )
    return list(tx.execute(query).scalars())


def take(tx: Transaction, run_id: int) -> Relay | None:
    """Be the only one who deals with a run's events; None if another one is at it."""
    query = sa.select(relay).where(relay.c.run_id == run_id).with_for_update(skip_locked=True)
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    return Relay(run_id, row.number, row.workflow_id, row.callbacks)


def settled(tx: Transaction, run_id: int, after: int, limit: int) -> tuple[int, list[Settled]]:
    """Of the next `limit` events: the number of the last one, and the tasks that ended in them."""
    query = (
        sa.select(
            event.c.number,
            event.c.kind,
            event.c.task_id,
            task.c.name,
            task.c.params,
            attempt.c.result,
            attempt.c.error,
        )
        .select_from(event)
        .outerjoin(task, task.c.id == event.c.task_id)
        .outerjoin(
            attempt,
            sa.and_(attempt.c.task_id == event.c.task_id, attempt.c.number == event.c.attempt),
        )
        .where(event.c.run_id == run_id, event.c.number > after)
        .order_by(event.c.number)
        .limit(limit)
    )
    rows = tx.execute(query).all()
    ended = [
        Settled(row.task_id, row.name, row.params, row.result, None if _succeeded(row) else row.error or {})
        for row in rows
        if row.kind in _ENDS and row.name is not None
    ]
    return (rows[-1].number if rows else after), ended


def _succeeded(row: Any) -> bool:
    return bool(row.kind == Move.SUCCEED)


def move_on(tx: Transaction, run_id: int, number: int) -> None:
    tx.execute(sa.update(relay).where(relay.c.run_id == run_id).values(number=number))
