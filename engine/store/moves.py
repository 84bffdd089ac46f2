"""Moves of tasks: besides a claim the only writers of `task_state.state`. `bookkeeping` has to follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Rule
from engine.model.states import TRANSITIONS, Move, TaskState
from engine.model.tally import Change
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import Id, is_still, task_state
from engine.store.statement import chunks, document, moment_of, statement


def moved(dialect: Dialect, **columns: Any) -> Any:
    """Rows that a move is for, bound as `moved`: their ids, then `columns`."""
    return dialect.recordset("moved", {"id": Id, **columns})


def move(
    dialect: Dialect,
    move: Move,
    rows: sa.FromClause,
    *where: sa.ColumnElement[bool],
    source: TaskState | None = None,
    returning: Sequence[sa.ColumnElement[Any]] = (),
    **values: Any,
) -> sa.Update:
    """The guarded UPDATE for `move`: only rows in one of its source states change.

    `rows` says which, by its column `id`; whoever sends them binds them as `moved`. Returns task_id, run_id,
    attempt, queue, and what `returning` adds.
    """
    transition = TRANSITIONS[move]
    sources = (source,) if source is not None else tuple(s for s in TaskState if s in transition.sources)
    return (
        sa.update(task_state)
        .values(
            state=_target(move),
            changed_at=moment_of(dialect, task_state.c.changed_at),
            **values,
        )
        .where(
            task_state.c.task_id == rows.c.id,
            is_still(task_state.c.state, *sources),
            *where,
        )
        .returning(
            task_state.c.task_id,
            task_state.c.run_id,
            task_state.c.attempt,
            task_state.c.queue,
            *returning,
        )
    )


def release(
    dialect: Dialect,
    rows: sa.FromClause,
    is_paused: sa.ColumnElement[bool],
    takes: sa.ColumnElement[bool] | None = None,
    leased: Mapping[str, Any] | None = None,
    returning: Sequence[str] = (),
) -> sa.Update:
    """The guarded UPDATE for UNBLOCK and its held twin: `rows` are ids and the `successes` to count off.

    Tasks that `takes` is true for are claimed on the way, with what `leased` says. It is one UPDATE for all,
    so that of two who count down the same row the second sees what is left; it must come upon them in one
    order. Returns task_id, run_id, queue and the state as it is then, and what `returning` adds.
    """
    row = task_state.c
    now = moment_of(dialect, row.changed_at)
    is_due = sa.and_(is_still(row.state, TaskState.BLOCKED), row.waiting_on == rows.c.successes)
    at = fresh(dialect, Move.UNBLOCK)
    is_taken: sa.ColumnElement[bool] = sa.false()
    if takes is not None:
        # First what holds for none when there is no room: it is looked at for each column of each row.
        is_taken = sa.and_(takes, is_due, sa.not_(is_paused), at <= now)
    state = sa.case(
        (sa.not_(is_due), row.state),
        (is_paused, _target(Move.UNBLOCK_HELD)),
        (is_taken, _target(Move.CLAIM)),
        else_=_target(Move.UNBLOCK),
    )
    told = dict.fromkeys(("task_id", "run_id", "queue", "state", *returning))
    values = {name: sa.case((is_taken, value), else_=row[name]) for name, value in (leased or {}).items()}
    return (
        sa.update(task_state)
        .values(
            waiting_on=row.waiting_on - rows.c.successes,
            state=state,
            available_at=sa.case((is_due, at), else_=row.available_at),
            changed_at=sa.case((is_due, now), else_=row.changed_at),
            **values,
        )
        .where(row.task_id == rows.c.id)
        .returning(*(row[name] for name in told))
    )


def _target(kind: Move) -> sa.ColumnElement[str]:
    return sa.literal_column(repr(str(TRANSITIONS[kind].target)), sa.Text)


@statement
def _fresh(dialect: Dialect, kind: Move, source: TaskState) -> sa.Update:
    """Moves that make a task available take `available_at` afresh, so that it joins the end of its queue."""
    return move(dialect, kind, moved(dialect), source=source, available_at=fresh(dialect, kind))


def fresh(dialect: Dialect, kind: Move) -> sa.ColumnElement[Any]:
    """The time from which a task is available that becomes so now."""
    waits = kind in (Move.UNBLOCK, Move.UNBLOCK_HELD)
    start = dialect.later(task_state.c.delay_ms) if waits else dialect.now()
    available_at = sa.type_coerce(start, task_state.c.available_at.type)
    return sa.case((task_state.c.available_at > available_at, task_state.c.available_at), else_=available_at)


@statement
def _explained(dialect: Dialect, kind: Move, source: TaskState) -> sa.Update:
    rows = moved(dialect, reason=sa.Text())
    return move(dialect, kind, rows, source=source, reason=rows.c.reason, is_cancelling=sa.false())


def wait_for(tx: Transaction, task_id: int, tasks: int) -> None:
    """Have a running task wait for `tasks` more, however they end, once it has done its part (AWAIT)."""
    row = task_state.c
    values = {"waiting_on": row.waiting_on + tasks, "rule": str(Rule.ALL_DONE)}
    tx.execute(sa.update(task_state).where(row.task_id == task_id).values(values))


def make_available(tx: Transaction, kind: Move, source: TaskState, ids: Sequence[int]) -> Iterable[Change]:
    """UNBLOCK or RESUME (or their held twins). What changed is asked for when somebody looks."""
    answers = [
        tx.execute(_fresh(tx.dialect, kind, source), {"moved": document([task_id] for task_id in chunk)})
        for chunk in chunks(ids)
    ]
    return _changes(tx, kind, source, chain.from_iterable(answers))


def end_unstarted(tx: Transaction, kind: Move, source: TaskState, reasons: Mapping[int, str]) -> list[Change]:
    """SKIP or CANCEL tasks that are not running, each with its reason."""
    answers = [
        tx.execute(_explained(tx.dialect, kind, source), {"moved": document(chunk)})
        for chunk in chunks(sorted(reasons.items()))
    ]
    return [
        Change(
            row.run_id,
            kind,
            row.task_id,
            None,
            source,
            TRANSITIONS[kind].target,
            {"reason": reasons[row.task_id]},
        )
        for row in chain.from_iterable(answers)
    ]


def _changes(tx: Transaction, kind: Move, source: TaskState, rows: Iterable[Any]) -> Iterator[Change]:
    target = TRANSITIONS[kind].target
    for row in rows:
        if target is TaskState.AVAILABLE:
            tx.wakes.add(row.queue)
        yield Change(row.run_id, kind, row.task_id, None, source, target)
