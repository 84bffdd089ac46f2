"""Steps of tasks and signals to runs: a function goes on where its earlier attempt was interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from engine.model.json import JSON
from engine.model.records import Lease
from engine.store.database import SIGNALLED, Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import signal, step
from engine.store.statement import moment_of, statement
from engine.store.workers import holds


@dataclass(frozen=True, slots=True)
class Step:
    """A step that is done or, while `seconds_left` is positive, being waited for."""

    result: JSON
    seconds_left: float | None = None  # of one that has a time


def find(tx: Transaction, task_id: int, name: str) -> Step | None:
    row = tx.execute(_find(tx.dialect), {"task": task_id, "name": name}).one_or_none()
    if row is None:
        return None
    left = None if row.due_at is None else (row.due_at - row.now).total_seconds()
    return Step(row.result, left)


@statement
def _find(dialect: Dialect) -> sa.Select[Any]:
    now = moment_of(dialect, step.c.at).label("now")
    return sa.select(step.c.result, step.c.due_at, now).where(
        step.c.task_id == sa.bindparam("task", type_=step.c.task_id.type),
        step.c.name == sa.bindparam("name", type_=sa.Text),
    )


def save(tx: Transaction, lease: Lease, name: str, result: JSON, *, seconds: float | None = None) -> bool:
    """Keep a step, unless it is kept already; with `seconds` it is over after them. False: lost lease."""
    if not holds(tx, lease):
        return False
    due_at = None
    if seconds is not None:
        due_at = sa.type_coerce(tx.dialect.later(sa.literal(seconds * 1000)), step.c.due_at.type)
    insert = tx.dialect.insert(step).values(
        task_id=lease.task_id,
        name=name,
        attempt=lease.attempt,
        result=result,
        due_at=due_at,
        at=moment_of(tx.dialect, step.c.at),
    )
    tx.execute(insert.on_conflict_do_nothing())
    return True


# --- signals


def send(tx: Transaction, run_id: int, name: str, payload: JSON) -> int:
    """Keep a signal for whoever waits for it, now or later. The caller owns the run. Returns its number."""
    newest = sa.select(sa.func.max(signal.c.number)).where(signal.c.run_id == run_id)
    number = int(tx.execute(newest).scalar_one() or 0) + 1
    tx.execute(
        sa.insert(signal).values(
            run_id=run_id,
            number=number,
            name=name,
            payload=payload,
            at=moment_of(tx.dialect, signal.c.at),
            actor=tx.actor,
        )
    )
    tx.wakes.add(SIGNALLED)
    return number


def take(tx: Transaction, lease: Lease, name: str) -> tuple[int, JSON] | None:
    """The oldest signal of this name that nobody has taken, which is ours from now on: (number, payload).

    The caller holds the lease and the run, so that no two tasks take the same one.
    """
    row = tx.execute(
        sa.select(signal.c.number, signal.c.payload)
        .where(signal.c.run_id == lease.run_id, signal.c.name == name, signal.c.taken_by.is_(None))
        .order_by(signal.c.number)
        .limit(1)
    ).first()
    if row is None:
        return None
    mine = (signal.c.run_id == lease.run_id, signal.c.number == row.number)
    tx.execute(sa.update(signal).where(*mine).values(taken_by=lease.task_id))
    return row.number, row.payload


def list_signals(tx: Transaction, run_id: int, *, limit: int | None = None, offset: int = 0) -> list[Any]:
    """(number, name, payload, at, actor, taken_by), oldest first."""
    query = sa.select(signal).where(signal.c.run_id == run_id).order_by(signal.c.number)
    return list(tx.execute(query.limit(limit).offset(offset)))
