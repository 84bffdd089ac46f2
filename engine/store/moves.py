"""Moves of tasks: besides a claim the only writers of `task_state.state`. `bookkeeping` has to follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa

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
            state=sa.literal_column(repr(str(transition.target))),
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
