"""Claims: available tasks become leases of one worker session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Reach
from engine.model.records import Lease, Place
from engine.model.retry import RetryPolicy
from engine.model.states import TRANSITIONS, Move, TaskState
from engine.model.tally import Change
from engine.store.booked import Booked, booking, changed
from engine.store.bookkeeping import record
from engine.store.candidates import candidates, is_alive
from engine.store.database import Later, Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import Id, is_still, state_is, task, task_state
from engine.store.statement import moment_of, statement


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """What one worker asks for, from one queue. `token` is fresh and random: it becomes the fence."""

    session_id: int
    token: str
    queue: str
    kinds: tuple[str, ...]
    limit: int
    after: Place | None = None  # the moving lower bound
    room: int = 0  # if more than `limit`: for what its own outcomes release


def claim(tx: Transaction, request: ClaimRequest) -> Later[list[Lease]]:
    """Lease up to `limit` available tasks of one queue: highest priority first, then oldest."""
    if tx.dialect.writes_in_with:
        query = _claim_at_once(tx.dialect, request.after is not None)
        rows = tx.execute(query, {**binds(tx, request), **booking(tx)})
        return Later(rows.all)
    leases, changes = take(tx, request)()
    record(tx, changes)
    return Later(lambda: leases)


def take(tx: Transaction, request: ClaimRequest) -> Callable[[], tuple[list[Lease], list[Change]]]:
    """Send a claim whose changes are still to be recorded. Call what it returns for the answer."""
    is_bounded = request.after is not None
    if tx.dialect.writes_in_with:
        rows = tx.execute(_take_and_show(tx.dialect, is_bounded), binds(tx, request))
    else:
        ids = tx.execute(_take(tx.dialect, is_bounded), binds(tx, request)).scalars()
        rows = tx.execute(_leases(tx.dialect), {"ids": tx.dialect.array(ids)})

    def answer() -> tuple[list[Lease], list[Change]]:
        leases = _checked(request, rows.all())
        return leases, [
            Change(
                lease.run_id,
                Move.CLAIM,
                lease.task_id,
                lease.attempt,
                TaskState.AVAILABLE,
                TaskState.RUNNING,
            )
            for lease in leases
        ]

    return answer


def take_chosen(tx: Transaction, request: ClaimRequest, task_ids: Sequence[int]) -> list[Lease]:
    """Lease these tasks, if they are available still. Their changes are to be recorded."""
    if not task_ids:
        return []
    given = {"ids": tx.dialect.array(task_ids), "session": request.session_id, "fence": request.token}
    taken = tx.execute(_take_chosen(tx.dialect), given).scalars()
    leases: list[Lease] = tx.execute(_leases(tx.dialect), {"ids": tx.dialect.array(taken)}).all()
    return _checked(request, leases)


def _checked(request: ClaimRequest, leases: list[Lease]) -> list[Lease]:
    # A sub-select that runs once per row would hand out the whole queue: stop before anything commits.
    assert len(leases) <= request.limit, f"{len(leases)} claimed for a limit of {request.limit}"
    return leases


def binds(tx: Transaction, request: ClaimRequest) -> dict[str, Any]:
    binds = {
        "from_queue": request.queue,
        "kinds": tx.dialect.array(request.kinds),
        "at_most": request.limit,
        "room": max(request.room, request.limit),
        "session": request.session_id,
        "fence": request.token,
    }
    if request.after is not None:
        binds |= dict(zip(("after_rank", "after_time", "after_id"), request.after, strict=True))
    return binds


def _taking(dialect: Dialect, bounded: bool, *returning: str) -> sa.Update:
    """The guarded UPDATE for a claim."""
    is_candidate = dialect.candidates(task_state.c.task_id, candidates(dialect, bounded))
    return _lease(dialect).where(is_candidate).returning(*(task_state.c[name] for name in returning))


def _lease(dialect: Dialect) -> sa.Update:
    return sa.update(task_state).values(
        state=sa.literal_column(repr(str(TRANSITIONS[Move.CLAIM].target))),
        changed_at=moment_of(dialect, task_state.c.changed_at),
        **leased(dialect),
    )


def leased(dialect: Dialect) -> dict[str, Any]:
    """What a claim writes besides the state."""
    return {
        "attempt": task_state.c.attempt + 1,
        "token": sa.bindparam("fence", type_=sa.Text),
        "session_id": sa.bindparam("session", type_=Id),
        "started_at": moment_of(dialect, task_state.c.started_at),
        "is_cancelling": sa.false(),
    }


class _Retry(sa.types.TypeDecorator[RetryPolicy]):
    impl = task.c.retry.type
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> RetryPolicy:
        if not value:
            return RetryPolicy.from_json(None)
        # A newer release may have stored more: its tasks are to run here as well.
        return RetryPolicy.from_json({key: value[key] for key in value.keys() & set(RetryPolicy.__slots__)})


class _Reach(sa.types.TypeDecorator[Reach]):
    impl = task.c.reach.type
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Reach | None:
        # Null: there is no lease. What a newer release may have stored is treated with most care.
        return None if value is None else _REACHES.get(value, Reach.SKIP)


_REACHES = {str(reach): reach for reach in Reach}
_READ_AS: dict[str, Any] = {"retry": _Retry, "reach": _Reach}
_SUBMITTED = {"name", "kind", "params", "timeout_ms", "retry", "client", "inputs", "reach"}
TAKEN = [name for name in Lease._fields if name not in _SUBMITTED]


def taken(dialect: Dialect, bounded: bool) -> sa.CTE:
    """A claim as part of a statement: with what `shown` reads."""
    return _taking(dialect, bounded, *TAKEN).cte("claimed")


def shown(rows: sa.FromClause) -> sa.Select[Any]:
    """Leases: `rows` of `task_state` with what was submitted."""
    fields = {name: (task if name in _SUBMITTED else rows).c[name] for name in Lease._fields}
    for name, kind in _READ_AS.items():
        fields[name] = sa.type_coerce(fields[name], kind).label(name)
    return sa.select(*fields.values()).join_from(rows, task, task.c.id == rows.c.task_id)


def within_limit(leased: sa.FromClause) -> sa.ColumnElement[bool]:
    """As `_checked`, where the answer comes with the commit: the statement fails."""
    found = sa.select(sa.func.count()).select_from(leased).scalar_subquery()
    is_within = found <= sa.bindparam("room", type_=sa.Integer)
    return sa.literal_column("1") / sa.case((is_within, 1), else_=0) == sa.literal_column("1")


def in_order(query: sa.Select[Any], rows: sa.FromClause) -> sa.Select[Any]:
    """In the order of the queue."""
    return query.order_by(rows.c.rank, rows.c.available_at, rows.c.task_id)


def _leases_of(rows: sa.FromClause) -> sa.Select[Any]:
    return in_order(shown(rows), rows).execution_options(row=Lease)


@statement
def _take(dialect: Dialect, bounded: bool) -> sa.Update:
    return _taking(dialect, bounded, "task_id")


@statement
def _take_chosen(dialect: Dialect) -> sa.Update:
    chosen = dialect.is_any(task_state.c.task_id, "ids")
    is_free = is_still(task_state.c.state, TaskState.AVAILABLE)
    return _lease(dialect).where(chosen, is_free, is_alive()).returning(task_state.c.task_id)


@statement
def _leases(dialect: Dialect) -> sa.Select[Any]:
    return _leases_of(task_state).where(
        dialect.is_any(task_state.c.task_id, "ids"), is_still(task_state.c.state, TaskState.RUNNING)
    )


@statement
def _take_and_show(dialect: Dialect, bounded: bool) -> sa.Select[Any]:
    return _leases_of(taken(dialect, bounded))


@statement
def _claim_at_once(dialect: Dialect, bounded: bool) -> sa.Select[Any]:
    claimed = taken(dialect, bounded)
    changes = changed(claimed.c.task_id, claimed, Move.CLAIM, TaskState.AVAILABLE, claimed.c.attempt).cte(
        "changes"
    )
    leases = _leases_of(claimed).where(within_limit(claimed))
    return leases.add_cte(*Booked(dialect, changes).parts)


# --- leases that are held


def leases_of_session(tx: Transaction, session_id: int, token: str | None = None) -> list[Lease]:
    """What a session holds; with `token`, only what one claim took (to adopt it after a lost answer)."""
    leases: list[Lease] = tx.execute(_session_leases(tx.dialect), {"session": session_id}).all()
    return leases if token is None else [lease for lease in leases if lease.token == token]


@statement
def _session_leases(dialect: Dialect) -> sa.Select[Any]:
    return _leases_of(task_state).where(
        task_state.c.session_id == sa.bindparam("session", type_=Id),
        state_is(task_state.c.state, TaskState.RUNNING),
    )
