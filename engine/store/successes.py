"""Plain successes at once: the finish of those that can skip nobody is one statement, with all its rows.

For databases that write in a WITH. In the steps of `finishes`, with an answer to look at after each, the
server took twice as long and we four times. The order of locks is kept by what reads from what.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Reach
from engine.model.records import Lease
from engine.model.states import Move, TaskState
from engine.store import claims
from engine.store.booked import Booked, booking, changed, constant, is_one_of
from engine.store.bookkeeping import wake_for_ends
from engine.store.candidates import is_wanted
from engine.store.claims import ClaimRequest
from engine.store.database import Later, Transaction
from engine.store.dialects.base import Dialect
from engine.store.endings import Ending, end_running, missing, paused_among
from engine.store.moves import moved, release
from engine.store.schema import attempt, edge, task_state
from engine.store.statement import document, moment_of, statement


def finish(tx: Transaction, endings: Sequence[Ending]) -> Later[list[Ending]]:
    query = _finished(tx.dialect, _lock(tx, endings))
    rows = tx.execute(query, {**_plain(tx, endings), **booking(tx), "expected": len(endings)})
    return Later(lambda: _told(tx, endings, rows.one()))


def _told(tx: Transaction, endings: Sequence[Ending], told: Any) -> list[Ending]:
    """What a row of `_telling` says: wakes, and returns the endings that were refused."""
    tx.wakes |= set(told.queues or ())
    wake_for_ends(tx, told.ends)
    if told.written == len(endings):
        return []
    return missing(endings, list(zip(told.ended_ids or (), told.ended_attempts or (), strict=True)))


def finish_and_claim(
    tx: Transaction, endings: Sequence[Ending], request: ClaimRequest
) -> Later[tuple[list[Ending], list[Lease], int]]:
    """In one statement. If there is room for all that the endings release, the claim has them as well.

    Answers besides how many tasks stand below those that ended.
    """
    query = _finished_and_claimed(tx.dialect, _lock(tx, endings), request.after is not None)
    values = {**_plain(tx, endings), **claims.binds(tx, request), **booking(tx)}
    found = tx.execute(query, {**values, "expected": len(endings)})

    def answer() -> tuple[list[Ending], list[Lease], int]:
        rows = found.all()
        leases = [Lease._make(row[_TOLD:]) for row in rows if row.task_id is not None]
        return _told(tx, endings, rows[0]), leases, rows[0].below

    return Later(answer)


def _lock(tx: Transaction, endings: Iterable[Ending]) -> bool:
    """Lock the runs, and say whether the end of one of the tasks concerns others.

    Rows need no locks beforehand: nobody else counts down a row that ended by itself, and those below are
    written in the order of their ids.
    """
    tx.dialect.share_runs(tx, sorted({ending.lease.run_id for ending in endings}))
    return any(ending.lease.reach is not Reach.ITSELF for ending in endings)


def _plain(tx: Transaction, endings: Iterable[Ending]) -> dict[str, Any]:
    rows = [
        [e.lease.task_id, e.lease.token, e.branch, e.result, e.usage.cpu_ms, e.usage.max_rss_kib]
        for e in sorted(endings, key=lambda ending: ending.lease.task_id)  # rows are locked in this order
    ]
    runs = tx.dialect.array({ending.lease.run_id for ending in endings})
    return {"moved": document(rows), "runs": runs}


class _Ended:
    """The CTEs of plain successes: `finished`, with `releases` those below, and what is `claimed`."""

    def __init__(self, dialect: Dialect, releases: bool, claimed: sa.CTE | None = None) -> None:
        measured = {name: attempt.c[name].type for name in ("result", "cpu_ms", "max_rss_kib")}
        rows = moved(dialect, token=sa.Text(), branch=sa.Text(), **measured)
        kept = (task_state.c.session_id, task_state.c.started_at, *(rows.c[name] for name in measured))
        self.finished = end_running(
            dialect, Move.SUCCEED, rows, kept, branch=rows.c.branch, reason=sa.null()
        ).cte("finished")
        self.parts: list[sa.CTE] = [self._attempts(dialect)]
        self.claimed = claimed
        self.released = self._release(dialect) if releases else None

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

    def _release(self, dialect: Dialect) -> sa.CTE:
        """Count the successes off the tasks below, in the order of their ids."""
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
            .order_by(children.c.child_id)
            .cte("below")
        )
        paused = paused_among(dialect).cte("paused")
        # Not as a join, see `booked`.
        is_paused = sa.func.coalesce(task_state.c.run_id.in_(sa.select(paused.c.id)), sa.false())
        if self.claimed is None:
            return release(dialect, below, is_paused).cte("released")
        wanted = sa.select(sa.func.count()).select_from(below).scalar_subquery()
        found = sa.select(sa.func.count()).select_from(self.claimed).scalar_subquery()
        fits = wanted + found <= sa.bindparam("room", type_=sa.Integer)
        # Asked for each column that a claim writes: counted once.
        once = sa.select(sa.select(fits.label("fits")).cte("room").c.fits).scalar_subquery()
        takes = sa.and_(once, *is_wanted(dialect, task_state))
        return release(dialect, below, is_paused, takes, claims.leased(dialect), claims.TAKEN).cte("released")

    @cached_property
    def leased(self) -> sa.FromClause:
        """What is leased now, claimed or released: rows of `task_state`."""
        assert self.claimed is not None
        if self.released is None:
            return self.claimed
        handed_over = sa.select(*(self.released.c[name] for name in claims.TAKEN)).where(
            self.released.c.state == constant(TaskState.RUNNING)
        )
        return sa.union_all(sa.select(self.claimed), handed_over).cte("leased")

    def changes(self) -> sa.CTE:
        """In the order of events: ends, releases, starts."""
        ended = self.finished
        selects = [changed(_place(0), ended, Move.SUCCEED, TaskState.RUNNING, ended.c.attempt)]
        if self.released is not None:
            is_held = self.released.c.state == constant(TaskState.HELD)
            is_free = is_one_of(self.released.c.state, TaskState.AVAILABLE, TaskState.RUNNING)
            for kind, is_it in ((Move.UNBLOCK_HELD, is_held), (Move.UNBLOCK, is_free)):
                selects.append(changed(_place(1), self.released, kind, TaskState.BLOCKED).where(is_it))
        if self.claimed is not None:
            leased = self.leased
            selects.append(changed(_place(2), leased, Move.CLAIM, TaskState.AVAILABLE, leased.c.attempt))
        return sa.union_all(*selects).cte("changes")


def _place(number: int) -> sa.ColumnElement[int]:
    return sa.literal_column(str(number), sa.Integer)


@statement
def _finished(dialect: Dialect, releases: bool) -> sa.Select[Any]:
    ended = _Ended(dialect, releases)
    changes = ended.changes()
    booked = Booked(dialect, changes)
    return _telling(ended, booked).add_cte(*ended.parts, *booked.parts)


@statement
def _finished_and_claimed(dialect: Dialect, releases: bool, bounded: bool) -> sa.Select[Any]:
    """What `_telling` tells, beside each lease or beside nulls."""
    ended = _Ended(dialect, releases, claims.taken(dialect, bounded))
    changes = ended.changes()
    booked = Booked(dialect, changes)
    told = _telling(ended, booked).subquery("told")
    leases = claims.shown(ended.leased).subquery("leases")
    query = sa.select(told, leases).join_from(told, leases, sa.true(), isouter=True)
    query = claims.in_order(query, leases).where(claims.within_limit(ended.leased))
    return query.add_cte(*ended.parts, *booked.parts)


def _telling(ended: _Ended, booked: Booked) -> sa.Select[Any]:
    """One row: how many were `written`, and if that is not all, their `ended_ids` and `ended_attempts`;
    `queues` that have more work now; how many stand `below`; `ends`, runs that are over."""
    finished = ended.finished.c
    is_less = sa.func.count() < sa.bindparam("expected", type_=sa.Integer)
    queues: Any = sa.null()
    below: Any = sa.literal_column("0", sa.Integer)
    if ended.released is not None:
        released = ended.released.c
        below = sa.select(sa.func.count()).select_from(ended.released).scalar_subquery()
        free = sa.select(sa.func.array_agg(released.queue.distinct()))
        queues = free.where(released.state == constant(TaskState.AVAILABLE)).scalar_subquery()
    ends = (
        sa.select(sa.func.array_agg(booked.tallied.c.run_id)).where(booked.tallied.c.ends).scalar_subquery()
    )
    told = {
        "written": sa.func.count(),
        "ended_ids": sa.case((is_less, sa.func.array_agg(finished.task_id))),
        "ended_attempts": sa.case((is_less, sa.func.array_agg(finished.attempt))),
        "queues": queues,
        "below": below,
        "ends": ends,
    }
    assert len(told) == _TOLD
    return sa.select(*(what.label(name) for name, what in told.items()))


_TOLD = 6  # columns of `_telling`
