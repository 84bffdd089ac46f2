"""Claims: available tasks become leases of one worker session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Reach
from engine.model.records import Lease
from engine.model.retry import RetryPolicy
from engine.model.states import TRANSITIONS, Move, TaskState
from engine.model.tally import Change
from engine.store.booked import Booked, booking, constant
from engine.store.bookkeeping import record
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import Id, event, is_still, state_is, task, task_state, worker_session
from engine.store.statement import moment_of, statement

Mark = tuple[int, datetime, int]  # a place in a queue's order: (rank, available_at, task id)


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What one worker asks for, from one queue. `token` is fresh and random: it becomes the fence."""

    session_id: int
    token: str
    queue: str
    kinds: tuple[str, ...]
    limit: int
    after: Mark | None = None  # the moving lower bound


@dataclass(frozen=True, slots=True)
class Claimed:
    leases: list[Lease]  # in the queue's order
    reached: Mark | None  # the place in that order to go on from


def claim(tx: Transaction, request: ClaimRequest) -> Claimed:
    """Lease up to `limit` available tasks of one queue: highest priority first, then oldest."""
    if tx.dialect.writes_in_with:
        query = _claim_at_once(tx.dialect, request.after is not None)
        return _claimed(request, tx.execute(query, {**_binds(tx, request), **booking(tx)}).all())
    claimed, changes = take(tx, request)()
    record(tx, changes)
    return claimed


def take(tx: Transaction, request: ClaimRequest) -> Callable[[], tuple[Claimed, list[Change]]]:
    """Send a claim whose changes are still to be recorded. Call what it returns for the answer."""
    is_bounded = request.after is not None
    if tx.dialect.writes_in_with:
        taken = tx.execute(_take_and_show(tx.dialect, is_bounded), _binds(tx, request))
    else:
        ids = tx.execute(_take(tx.dialect, is_bounded), _binds(tx, request)).scalars()
        taken = tx.execute(_leases(tx.dialect), {"ids": tx.dialect.array(ids)})

    def answer() -> tuple[Claimed, list[Change]]:
        return _claimed(request, taken.all()), [
            Change(row.run_id, Move.CLAIM, row.task_id, row.attempt, TaskState.AVAILABLE, TaskState.RUNNING)
            for row in taken
        ]

    return answer


def _claimed(request: ClaimRequest, rows: Sequence[Any]) -> Claimed:
    # A sub-select that runs once per row would hand out the whole queue: stop before anything commits.
    assert len(rows) <= request.limit, f"{len(rows)} rows claimed for a limit of {request.limit}"
    if not rows:
        return Claimed([], None)
    last = rows[-1]
    return Claimed([_lease(row) for row in rows], (last.rank, last.available_at, last.task_id))


def _binds(tx: Transaction, request: ClaimRequest) -> dict[str, Any]:
    binds = {
        "from_queue": request.queue,
        "kinds": tx.dialect.array(request.kinds),
        "at_most": request.limit,
        "session": request.session_id,
        "fence": request.token,
    }
    if request.after is not None:
        binds |= dict(zip(("after_rank", "after_time", "after_id"), request.after, strict=True))
    return binds


def _taking(dialect: Dialect, bounded: bool, returning: Sequence[str] = ("task_id",)) -> sa.Update:
    waiting = task_state.alias("waiting")
    now = moment_of(dialect, task_state.c.available_at)
    order = (waiting.c.rank, waiting.c.available_at, waiting.c.task_id)
    alive = (
        sa.select(sa.literal(1))
        .where(worker_session.c.id == sa.bindparam("session", type_=Id), worker_session.c.ended_at.is_(None))
        .exists()
    )
    candidates = (
        sa.select(waiting.c.task_id)
        .where(
            state_is(waiting.c.state, TaskState.AVAILABLE),
            waiting.c.queue == sa.bindparam("from_queue", type_=sa.Text),
            waiting.c.available_at <= now,
            dialect.is_any(waiting.c.kind, "kinds"),
            alive,
        )
        .order_by(*order)
        .limit(sa.bindparam("at_most", type_=sa.Integer))
        .with_for_update(skip_locked=True, of=waiting)
    )
    if bounded:
        bound = sa.tuple_(
            sa.bindparam("after_rank", type_=sa.Integer),
            sa.bindparam("after_time", type_=task_state.c.available_at.type),
            sa.bindparam("after_id", type_=Id),
        )
        candidates = candidates.where(sa.tuple_(*order) > bound)
    return (
        sa.update(task_state)
        .values(
            state=sa.literal_column(repr(str(TRANSITIONS[Move.CLAIM].target))),
            attempt=task_state.c.attempt + 1,
            token=sa.bindparam("fence", type_=sa.Text),
            session_id=sa.bindparam("session", type_=Id),
            started_at=now,
            changed_at=now,
            is_cancelling=sa.false(),
        )
        .where(dialect.candidates(task_state.c.task_id, candidates))
        .returning(*(task_state.c[name] for name in returning))
    )


_SUBMITTED = {"name", "kind", "params", "timeout_ms", "retry", "client", "reach"}
_PLACE = ("rank", "available_at")
_TAKEN = [name for name in (*Lease._fields, *_PLACE) if name not in _SUBMITTED]


def _shown(rows: sa.FromClause) -> sa.Select[Any]:
    """Leases in the queue's order, and their places: `rows` of `task_state` with what was submitted."""
    fields = [(task if name in _SUBMITTED else rows).c[name] for name in Lease._fields]
    return (
        sa.select(*fields, *(rows.c[name] for name in _PLACE))
        .join_from(rows, task, task.c.id == rows.c.task_id)
        .order_by(rows.c.rank, rows.c.available_at, rows.c.task_id)
    )


@statement
def _take(dialect: Dialect, bounded: bool) -> sa.Update:
    return _taking(dialect, bounded)


@statement
def _leases(dialect: Dialect) -> sa.Select[Any]:
    return _shown(task_state).where(
        dialect.is_any(task_state.c.task_id, "ids"), is_still(task_state.c.state, TaskState.RUNNING)
    )


@statement
def _take_and_show(dialect: Dialect, bounded: bool) -> sa.Select[Any]:
    return _shown(_taking(dialect, bounded, _TAKEN).cte("claimed"))


@statement
def _claim_at_once(dialect: Dialect, bounded: bool) -> sa.Select[Any]:
    claimed = _taking(dialect, bounded, _TAKEN).cte("claimed")
    changes = sa.select(
        claimed.c.run_id,
        claimed.c.task_id.label("place"),
        constant(Move.CLAIM).label("kind"),
        claimed.c.task_id,
        claimed.c.attempt,
        constant(TaskState.AVAILABLE).label("source"),
        constant(TaskState.RUNNING).label("target"),
        sa.cast(sa.null(), event.c.detail.type).label("detail"),
    ).cte("changes")
    return _shown(claimed).add_cte(*Booked(dialect, changes).parts)


# --- leases that are held


def leases_of_session(tx: Transaction, session_id: int, token: str | None = None) -> list[Lease]:
    """What a session holds; with `token`, only what one claim took (to adopt it after a lost answer)."""
    rows = tx.execute(_session_leases(tx.dialect), {"session": session_id})
    leases = [_lease(row) for row in rows]
    return leases if token is None else [lease for lease in leases if lease.token == token]


@statement
def _session_leases(dialect: Dialect) -> sa.Select[Any]:
    return _shown(task_state).where(
        task_state.c.session_id == sa.bindparam("session", type_=Id),
        state_is(task_state.c.state, TaskState.RUNNING),
    )


def _lease(row: Any) -> Lease:
    """A row that begins with the fields of a lease."""
    values = list(row[: len(Lease._fields)])
    values[_RETRY] = RetryPolicy.from_json(row.retry)
    values[_REACH] = _REACHES[row.reach]
    return Lease._make(values)


_RETRY = Lease._fields.index("retry")
_REACH = Lease._fields.index("reach")
_REACHES = {str(reach): reach for reach in Reach}
