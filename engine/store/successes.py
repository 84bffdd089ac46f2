"""Plain successes at once: the finish of those that can skip nobody is one statement, with all its rows.

For databases that write in a WITH. In the steps of `finishes`, with an answer to look at after each, the
server took twice as long and we four times. The order of locks is kept by what reads from what.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from engine.model.records import Lease
from engine.model.states import TRANSITIONS, Move, TaskState
from engine.model.tally import Change
from engine.store import claims
from engine.store.booked import Booked, booking, constant
from engine.store.bookkeeping import wake_for_ends
from engine.store.claims import ClaimRequest
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.endings import Ending, end_running, lock, missing, paused_among
from engine.store.moves import fresh, move, moved
from engine.store.schema import attempt, edge, event, is_still, task_state
from engine.store.statement import document, moment_of, statement


def finish(tx: Transaction, endings: Sequence[Ending]) -> list[Ending]:
    concerned = lock(tx, endings)
    query = _finished(tx.dialect, bool(concerned))
    values = {**_plain(tx, endings), **booking(tx), "expected": len(endings)}
    return _told(tx, endings, tx.execute(query, values).one())


def _told(tx: Transaction, endings: Sequence[Ending], told: Any) -> list[Ending]:
    """What a row of `_telling` says: wakes, and returns the endings that were refused."""
    tx.wakes |= set(told.queues or ())
    wake_for_ends(tx, told.ends)
    if told.written == len(endings):
        return []
    return missing(endings, list(zip(told.ended_ids or (), told.ended_attempts or (), strict=True)))


def finish_and_claim(
    tx: Transaction, endings: Sequence[Ending], request: ClaimRequest
) -> tuple[list[Ending], list[Lease]]:
    """In one statement. What the endings release is not seen by the claim."""
    concerned = lock(tx, endings)
    query = _finished_and_claimed(tx.dialect, bool(concerned), request.after is not None)
    values = {**_plain(tx, endings), **claims.binds(tx, request), **booking(tx)}
    rows = tx.execute(query, {**values, "expected": len(endings)}).all()
    refused = _told(tx, endings, rows[0])
    leases = [Lease._make(row[_TOLD:]) for row in rows if row.task_id is not None]
    return refused, claims.checked(request, leases)


def end_and_take(
    tx: Transaction, endings: Sequence[Ending], request: ClaimRequest
) -> tuple[list[Ending], Iterable[Change], Callable[[], tuple[list[Lease], list[Change]]]]:
    """Both are sent before either is answered; their changes are still to be recorded."""
    concerned = lock(tx, endings)
    ended = tx.execute(_end_and_show(tx.dialect, bool(concerned)), _plain(tx, endings))
    taken = claims.take(tx, request)
    changes = [
        Change(row.run_id, row.kind, row.task_id, row.attempt, TaskState(row.source), TaskState(row.target))
        for row in ended
    ]
    tx.wakes |= {row.queue for row in ended if row.target == TaskState.AVAILABLE}
    written = [(row.task_id, row.attempt) for row in ended if row.kind == Move.SUCCEED]
    return missing(endings, written), changes, taken


def _plain(tx: Transaction, endings: Iterable[Ending]) -> dict[str, Any]:
    rows = [
        [e.lease.task_id, e.lease.token, e.branch, e.result, e.usage.cpu_ms, e.usage.max_rss_kib]
        for e in sorted(endings, key=lambda ending: ending.lease.task_id)  # rows are locked in this order
    ]
    runs = tx.dialect.array({ending.lease.run_id for ending in endings})
    return {"moved": document(rows), "runs": runs}


class _Ended:
    """The CTEs of plain successes: `finished`, and with `releases` also those of the tasks below."""

    def __init__(self, dialect: Dialect, releases: bool) -> None:
        measured = {name: attempt.c[name].type for name in ("result", "cpu_ms", "max_rss_kib")}
        rows = moved(dialect, token=sa.Text(), branch=sa.Text(), **measured)
        kept = (task_state.c.session_id, task_state.c.started_at, *(rows.c[name] for name in measured))
        self.finished = end_running(dialect, Move.SUCCEED, rows, kept, branch=rows.c.branch).cte("finished")
        self.parts: list[sa.CTE] = [self._attempts(dialect)]
        self.released: list[tuple[Move, sa.CTE]] = []
        if releases:
            self._release(dialect)

    def _attempts(self, dialect: Dialect) -> sa.CTE:
        finished = self.finished.c
        values = {
            "task_id": finished.task_id,
            "number": finished.attempt,
            "session_id": finished.session_id,
            "started_at": finished.started_at,
            "finished_at": moment_of(dialect, attempt.c.finished_at),
            "outcome": constant("succeeded"),
            "result": finished.result,
            "cpu_ms": finished.cpu_ms,
            "max_rss_kib": finished.max_rss_kib,
        }
        return sa.insert(attempt).from_select(list(values), sa.select(*values.values())).cte("attempts")

    def _release(self, dialect: Dialect) -> None:
        """Count the successes off the tasks below. Each row is written by one of the parts: the rows are
        locked, so all see the same."""
        # OFFSET 0: the children of one task at a time, by index. As a join the planner read all edges of the
        # database per task where nearly all had one parent.
        children = (
            sa.select(edge.c.child_id)
            .where(edge.c.parent_id == self.finished.c.task_id)
            .correlate(self.finished)
            .offset(sa.literal_column("0"))
            .lateral("children")
        )
        below = (
            sa.select(
                children.c.child_id.label("id"), sa.cast(sa.func.count(), sa.Integer).label("successes")
            )
            .join_from(self.finished, children, sa.true())
            .group_by(children.c.child_id)
            .cte("below")
        )
        paused = paused_among(dialect).cte("paused")
        # Not as a join, see `booked`.
        is_paused = sa.func.coalesce(task_state.c.run_id.in_(sa.select(paused.c.id)), sa.false())
        is_last = task_state.c.waiting_on == below.c.successes
        for kind, is_due in ((Move.UNBLOCK, sa.not_(is_paused)), (Move.UNBLOCK_HELD, is_paused)):
            at = fresh(dialect, kind)
            unblock = move(dialect, kind, below, is_last, is_due, available_at=at, waiting_on=0)
            self.released.append((kind, unblock.cte(str(kind))))
        is_moved = sa.and_(is_still(task_state.c.state, TaskState.BLOCKED), is_last)
        count_down = (
            sa.update(task_state)
            .values(waiting_on=task_state.c.waiting_on - below.c.successes)
            .where(task_state.c.task_id == below.c.id, sa.not_(is_moved))
        )
        self.parts.append(count_down.cte("counted_down"))

    def changes(self, *more: sa.Select[Any]) -> sa.CTE:
        return sa.union_all(
            *(
                sa.select(
                    rows.c.run_id,
                    sa.literal_column(str(place), sa.Integer).label("place"),
                    constant(kind).label("kind"),
                    rows.c.task_id,
                    _attempt(kind, rows).label("attempt"),
                    constant(_source(kind)).label("source"),
                    constant(TRANSITIONS[kind].target).label("target"),
                    sa.cast(sa.null(), event.c.detail.type).label("detail"),
                    rows.c.queue,
                )
                for place, (kind, rows) in enumerate([(Move.SUCCEED, self.finished), *self.released])
            ),
            *more,
        ).cte("changes")


def _source(kind: Move) -> TaskState:
    [source] = TRANSITIONS[kind].sources
    return source


def _attempt(kind: Move, rows: sa.CTE) -> sa.ColumnElement[int]:
    return rows.c.attempt if kind is Move.SUCCEED else sa.cast(sa.null(), sa.Integer)


@statement
def _end_and_show(dialect: Dialect, releases: bool) -> sa.Select[Any]:
    ended = _Ended(dialect, releases)
    changes = ended.changes()
    return sa.select(changes).add_cte(*ended.parts)


@statement
def _finished(dialect: Dialect, releases: bool) -> sa.Select[Any]:
    ended = _Ended(dialect, releases)
    changes = ended.changes()
    booked = Booked(dialect, changes)
    return _telling(ended, changes, booked).add_cte(*ended.parts, *booked.parts)


@statement
def _finished_and_claimed(dialect: Dialect, releases: bool, bounded: bool) -> sa.Select[Any]:
    """What `_telling` tells, beside each lease of the claim or beside nulls."""
    ended = _Ended(dialect, releases)
    claimed = claims.taken(dialect, bounded)
    changes = ended.changes(claims.started(claimed, sa.literal_column(str(_LAST), sa.Integer)))
    booked = Booked(dialect, changes)
    told = _telling(ended, changes, booked).subquery("told")
    leases = claims.shown(claimed).subquery("leases")
    query = sa.select(told, leases).join_from(told, leases, sa.true(), isouter=True)
    return claims.in_order(query, leases).add_cte(*ended.parts, *booked.parts)


_LAST = 9  # the place of what is neither an end nor a release


def _telling(ended: _Ended, changes: sa.CTE, booked: Booked) -> sa.Select[Any]:
    """One row: how many were `written`, and if that is not all, their `ended_ids` and `ended_attempts`;
    `queues` that have more work now; `ends`, runs that are over."""
    finished = ended.finished.c
    is_less = sa.func.count() < sa.bindparam("expected", type_=sa.Integer)
    wakes = changes.c.target == constant(TaskState.AVAILABLE)
    queues = sa.select(sa.func.array_agg(changes.c.queue.distinct())).where(wakes).scalar_subquery()
    ends = (
        sa.select(sa.func.array_agg(booked.tallied.c.run_id)).where(booked.tallied.c.ends).scalar_subquery()
    )
    told = {
        "written": sa.func.count(),
        "ended_ids": sa.case((is_less, sa.func.array_agg(finished.task_id))),
        "ended_attempts": sa.case((is_less, sa.func.array_agg(finished.attempt))),
        "queues": queues,
        "ends": ends,
    }
    assert len(told) == _TOLD
    return sa.select(*(what.label(name) for name, what in told.items()))


_TOLD = 5  # columns of `_telling`
