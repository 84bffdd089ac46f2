"""What can go on in a database now, and when something next can. For whoever holds its clock."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.model.states import TaskState
from engine.store import relays, schedules
from engine.store.database import Transaction
from engine.store.schema import concurrency_limit, is_limited, run, schedule, state_is, task_state
from engine.store.statement import moment_of

_BETWEEN = "\n"  # keys of limits, see `store.limits`


@dataclass(frozen=True, slots=True)
class Outlook:
    """`changes` grows with every event of any run: two outlooks that are equal have nothing between them."""

    running: frozenset[int]  # ids of tasks
    can_claim: bool  # a task is due, and there is room for it
    can_tick: bool  # a schedule is due, or events are to be told
    next_at: datetime | None  # of the first task or schedule that is not due yet
    changes: int


def look(tx: Transaction, kinds: Collection[str], room: int) -> Outlook:
    """`kinds` are those that somebody performs, `room` how many tasks can run at once."""
    now = schedules.now(tx)
    running = tx.execute(
        sa.select(task_state.c.task_id, task_state.c.limit_keys).where(
            state_is(task_state.c.state, TaskState.RUNNING)
        )
    ).all()
    next_firing = tx.execute(
        sa.select(sa.func.min(schedule.c.next_at)).where(~schedule.c.is_paused)
    ).scalar_one_or_none()
    later = [moment for moment in (_next_task(tx, kinds), next_firing) if moment is not None and moment > now]
    return Outlook(
        running=frozenset(row.task_id for row in running),
        can_claim=len(running) < room and _is_claimable(tx, kinds, running),
        can_tick=(next_firing is not None and next_firing <= now) or _can_start_queued(tx) or _has_news(tx),
        next_at=min(later, default=None),
        changes=tx.execute(
            sa.select(sa.func.coalesce(sa.func.sum(run.c.event_count), 0) + sa.func.count(run.c.id))
        ).scalar_one(),
    )


# --- tasks


def _available(kinds: Collection[str]) -> tuple[sa.ColumnElement[bool], ...]:
    return state_is(task_state.c.state, TaskState.AVAILABLE), task_state.c.kind.in_(sorted(kinds))


def _next_task(tx: Transaction, kinds: Collection[str]) -> datetime | None:
    is_later = task_state.c.available_at > moment_of(tx.dialect, task_state.c.available_at)
    query = sa.select(sa.func.min(task_state.c.available_at)).where(*_available(kinds), is_later)
    found: datetime | None = tx.execute(query).scalar_one_or_none()
    return found


def _is_claimable(tx: Transaction, kinds: Collection[str], running: Collection[Any]) -> bool:
    is_due = task_state.c.available_at <= moment_of(tx.dialect, task_state.c.available_at)
    due = sa.select(task_state.c.limit_keys).where(*_available(kinds), is_due).distinct()
    if tx.execute(due.where(~is_limited).limit(1)).first() is not None:
        return True
    groups = [keys.split(_BETWEEN) for keys in tx.execute(due.where(is_limited)).scalars()]
    if not groups:
        return False
    free = {row.key: row.at_most for row in tx.execute(sa.select(concurrency_limit))}
    for keys in (row.limit_keys for row in running if row.limit_keys):
        for key in keys.split(_BETWEEN):
            free[key] = free.get(key, 1) - 1
    return any(all(free.get(key, 1) > 0 for key in group) for group in groups)


# --- schedules and events


def _can_start_queued(tx: Transaction) -> bool:
    """A time of a schedule has waited for a run that has ended."""
    query = sa.select(schedule.c.id).where(~schedule.c.is_paused, schedule.c.queued_at.is_not(None))
    return any(not schedules.open_runs(tx, schedule_id) for schedule_id in tx.execute(query).scalars().all())


def _has_news(tx: Transaction) -> bool:
    return bool(relays.to_do(tx, 1))
