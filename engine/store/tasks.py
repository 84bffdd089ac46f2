"""The hot path: claim, finish, release of dependents. Fenced by the token of the lease."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Reach
from engine.model.outcomes import Decision, Usage
from engine.model.records import Lease
from engine.model.retry import RetryPolicy
from engine.model.states import FINAL_TASK_STATES, TRANSITIONS, Move, RunState, TaskState
from engine.model.tally import Change
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.moves import move, record
from engine.store.resolve import release_dependents
from engine.store.schema import Id, attempt, edge, is_still, run, state_is, task, task_state, worker_session
from engine.store.statement import document, insert_rows, json_text, moment_of, moment_text, statement

Fence = tuple[int, int]  # (task id, attempt number)
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


@dataclass(frozen=True, slots=True)
class Ending:
    """How one attempt ended, encoded and checked, ready to be written."""

    lease: Lease
    decision: Decision
    result: str | None = None  # JSON text
    branch: str | None = None
    usage: Usage = field(default_factory=Usage)

    @property
    def fence(self) -> Fence:
        return self.lease.task_id, self.lease.attempt


# --- claim


def claim(tx: Transaction, request: ClaimRequest) -> Claimed:
    """Lease up to `limit` available tasks of one queue: highest priority first, then oldest."""
    rows, changes = _take(tx, request)
    if not rows:
        return Claimed([], None)
    answer = tx.execute(_leases(tx.dialect), _ids(tx, rows))
    record(tx, changes)
    return Claimed([_lease(row) for row in answer], _reached(rows))


def _take(tx: Transaction, request: ClaimRequest) -> tuple[list[Any], list[Change]]:
    binds = {
        "from_queue": request.queue,
        "kinds": tx.dialect.array(request.kinds),
        "at_most": request.limit,
        "session": request.session_id,
        "fence": request.token,
    }
    if request.after is not None:
        binds |= dict(zip(("after_rank", "after_time", "after_id"), request.after, strict=True))
    rows = tx.execute(_claim(tx.dialect, request.after is not None), binds).all()
    # A sub-select that runs once per row would hand out the whole queue: stop before anything commits.
    assert len(rows) <= request.limit, f"{len(rows)} rows claimed for a limit of {request.limit}"
    return rows, [
        Change(row.run_id, Move.CLAIM, row.task_id, row.attempt, TaskState.AVAILABLE, TaskState.RUNNING)
        for row in rows
    ]


def _reached(rows: Sequence[Any]) -> Mark:
    return max((row.rank, row.available_at, row.task_id) for row in rows)


def _ids(tx: Transaction, rows: Iterable[Any]) -> dict[str, Any]:
    return {"ids": tx.dialect.array(row.task_id for row in rows)}


@statement
def _claim(dialect: Dialect, bounded: bool) -> sa.Update:
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
        .returning(
            task_state.c.task_id,
            task_state.c.run_id,
            task_state.c.attempt,
            task_state.c.rank,
            task_state.c.available_at,
        )
    )


def leases_of_session(tx: Transaction, session_id: int, token: str | None = None) -> list[Lease]:
    """What a session holds; with `token`, only what one claim took (to adopt it after a lost answer)."""
    rows = tx.execute(_session_leases(tx.dialect), {"session": session_id})
    leases = [_lease(row) for row in rows]
    return leases if token is None else [lease for lease in leases if lease.token == token]


def _lease_columns() -> sa.Select[Any]:
    return (
        sa.select(
            task_state.c.task_id,
            task_state.c.run_id,
            task_state.c.attempt,
            task_state.c.token,
            task_state.c.session_id,
            task_state.c.started_at,
            task_state.c.failures,
            task_state.c.crashes,
            task_state.c.is_cancelling,
            task.c.name,
            task.c.kind,
            task.c.params,
            task.c.timeout_ms,
            task.c.retry,
            task.c.client,
            task.c.reach,
        )
        .join_from(task_state, task, task.c.id == task_state.c.task_id)
        .order_by(task_state.c.rank, task_state.c.available_at, task_state.c.task_id)
    )


@statement
def _leases(dialect: Dialect) -> sa.Select[Any]:
    return _lease_columns().where(
        dialect.is_any(task_state.c.task_id, "ids"), is_still(task_state.c.state, TaskState.RUNNING)
    )


@statement
def _session_leases(dialect: Dialect) -> sa.Select[Any]:
    return _lease_columns().where(
        task_state.c.session_id == sa.bindparam("session", type_=Id),
        state_is(task_state.c.state, TaskState.RUNNING),
    )


def _lease(row: Any) -> Lease:
    return Lease(
        task_id=row.task_id,
        run_id=row.run_id,
        name=row.name,
        kind=row.kind,
        params=row.params,
        attempt=row.attempt,
        token=row.token,
        session_id=row.session_id,
        started_at=row.started_at,
        timeout_ms=row.timeout_ms,
        retry=RetryPolicy.from_json(row.retry),
        failures=row.failures,
        crashes=row.crashes,
        client=row.client,
        is_cancelling=row.is_cancelling,
        reach=Reach(row.reach),
    )


# --- finish


def finish(tx: Transaction, endings: Sequence[Ending]) -> set[Fence]:
    """Record how attempts ended and release what was waiting for them, in one transaction.

    Only rows that still carry the lease's token change; returns the fences of those. For the others nothing
    at all is written. Of two endings of one attempt the first counts.
    """
    written, changes = _end(tx, endings)
    record(tx, list(changes))
    return written


def finish_and_claim(
    tx: Transaction, endings: Sequence[Ending], request: ClaimRequest
) -> tuple[set[Fence], Claimed]:
    """`finish`, then `claim`, in one transaction: what was released need not wait for another."""
    written, ended = _end(tx, endings)
    rows, taken = _take(tx, request)
    answer: Iterable[Any] = tx.execute(_leases(tx.dialect), _ids(tx, rows)) if rows else []
    changes = list(ended)
    released = {change.task_id for change in changes if change.target is TaskState.AVAILABLE}
    if released <= {row.task_id for row in rows}:
        tx.wakes.discard(request.queue)  # nothing is left for anybody else
    record(tx, [*changes, *taken])
    return written, Claimed([_lease(row) for row in answer], _reached(rows) if rows else None)


def _end(tx: Transaction, endings: Sequence[Ending]) -> tuple[set[Fence], Iterable[Change]]:
    firsts: dict[Fence, Ending] = {}
    for ending in endings:
        firsts.setdefault(ending.fence, ending)
    endings = list(firsts.values())
    run_ids = sorted({ending.lease.run_id for ending in endings})
    _lock_runs(tx, run_ids, endings)
    paused_runs = tx.execute(_paused_runs(tx.dialect), {"ids": tx.dialect.array(run_ids)})
    concerned = {ending.lease.task_id for ending in endings if ending.lease.reach is not Reach.ITSELF}
    _lock_rows(tx, concerned)
    groups = _by_move(tx, endings, paused_runs)
    changes: list[Change] = []
    accepted: list[Ending] = []
    for kind, group in groups.items():
        for ending in _write_endings(tx, kind, group):
            accepted.append(ending)
            changes.append(_change(kind, ending))
    if not accepted:
        return set(), []
    _write_attempts(tx, accepted)
    settled = {
        change.task_id: change.target
        for change in changes
        if change.task_id in concerned and change.target in FINAL_TASK_STATES
    }
    released = release_dependents(tx, settled, set(paused_runs.scalars()))
    return {ending.fence for ending in accepted}, chain(changes, released)


def _lock_runs(tx: Transaction, run_ids: Sequence[int], endings: Iterable[Ending]) -> None:
    """Successes of one run may finish side by side; whatever may skip tasks far below works alone.

    What is skipped lies below the rows that `_lock_rows` takes in order: side by side that dead-locked.
    """
    alone = {ending.lease.run_id for ending in endings if _works_alone(ending)}
    if alone:
        # Both kinds of lock in one order of ids, otherwise two batches could wait for each other.
        for run_id in run_ids:
            (tx.dialect.own_runs if run_id in alone else tx.dialect.share_runs)(tx, [run_id])
    else:
        tx.dialect.share_runs(tx, run_ids)


@statement
def _paused_runs(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(run.c.id).where(
        dialect.is_any(run.c.id, "ids"), run.c.state == sa.literal_column(repr(str(RunState.PAUSED)))
    )


def _works_alone(ending: Ending) -> bool:
    reach = ending.lease.reach
    return reach is Reach.SKIP or (reach is Reach.RELEASE and ending.decision.move is not Move.SUCCEED)


def _lock_rows(tx: Transaction, task_ids: Iterable[int]) -> None:
    """Parents and children in id order, in a statement of its own: inside the UPDATE it would be lazy."""
    if task_ids and tx.dialect.locks_rows:
        tx.execute(_lock_family(tx.dialect), {"ids": tx.dialect.array(sorted(task_ids))})


@statement
def _lock_family(dialect: Dialect) -> sa.Select[Any]:
    children = sa.select(edge.c.child_id).where(dialect.is_any(edge.c.parent_id, "ids"))
    family = sa.union(
        children, sa.select(task_state.c.task_id).where(dialect.is_any(task_state.c.task_id, "ids"))
    ).subquery("family")
    return (
        sa.select(task_state.c.task_id)
        .where(task_state.c.task_id.in_(sa.select(family.c[0])))
        .order_by(task_state.c.task_id)
        .with_for_update(of=task_state)
    )


@statement
def _told_to_stop(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(task_state.c.task_id).where(
        dialect.is_any(task_state.c.task_id, "ids"), task_state.c.is_cancelling
    )


def _by_move(tx: Transaction, endings: Iterable[Ending], paused_runs: Any) -> dict[Move, list[Ending]]:
    groups: dict[Move, list[Ending]] = defaultdict(list)
    for ending in endings:
        groups[ending.decision.move].append(ending)
    retried = groups.pop(Move.RETRY, [])
    if retried:
        paused = set(paused_runs.scalars())
        ids = {"ids": tx.dialect.array(ending.lease.task_id for ending in retried)}
        told_to_stop = set(tx.execute(_told_to_stop(tx.dialect), ids).scalars())
        for ending in retried:
            if ending.lease.task_id in told_to_stop:  # after a cancel nothing starts anew
                groups[Move.CANCEL].append(ending)
            else:
                groups[Move.RETRY_HELD if ending.lease.run_id in paused else Move.RETRY].append(ending)
    return groups


def _write_endings(tx: Transaction, kind: Move, endings: Sequence[Ending]) -> list[Ending]:
    rows = tx.execute(
        _finish(tx.dialect, kind),
        {
            "moved": document(
                [
                    e.lease.task_id,
                    e.lease.token,
                    e.decision.failures,
                    e.decision.crashes,
                    e.decision.delay_ms,
                    e.branch,
                    None if e.decision.error is None else e.decision.error["message"],
                ]
                for e in endings
            )
        },
    ).all()
    if TRANSITIONS[kind].target is TaskState.AVAILABLE:
        tx.wakes |= {row.queue for row in rows}
    written = {(row.task_id, row.attempt) for row in rows}
    return [ending for ending in endings if ending.fence in written]


@statement
def _finish(dialect: Dialect, kind: Move) -> sa.Update:
    columns = {
        "id": Id,
        "token": sa.Text(),
        "failures": sa.Integer(),
        "crashes": sa.Integer(),
        "delay_ms": sa.BigInteger(),
        "branch": sa.Text(),
        "reason": sa.Text(),
    }
    values: dict[str, Any] = {
        "failures": lambda rows: task_state.c.failures + rows.c.failures,
        "crashes": lambda rows: task_state.c.crashes + rows.c.crashes,
    }
    match kind:
        case Move.RETRY | Move.RETRY_HELD:
            values["available_at"] = lambda rows: sa.type_coerce(
                dialect.later(rows.c.delay_ms), task_state.c.available_at.type
            )
        case Move.SUCCEED:
            values["branch"] = lambda rows: rows.c.branch
        case _:
            values["reason"] = lambda rows: rows.c.reason
    return move(
        dialect,
        kind,
        columns,
        lambda rows: task_state.c.token == rows.c.token,  # the fence
        source=TaskState.RUNNING,
        **values,
    )


def _change(kind: Move, ending: Ending) -> Change:
    error = ending.decision.error
    detail = None
    if error is not None or ending.decision.word not in ("succeeded", "failed"):
        detail = {"outcome": ending.decision.word, **({"error": error["message"]} if error else {})}
    return Change(
        ending.lease.run_id,
        kind,
        ending.lease.task_id,
        ending.lease.attempt,
        TaskState.RUNNING,
        TRANSITIONS[kind].target,
        detail,
    )


def _write_attempts(tx: Transaction, endings: Iterable[Ending]) -> None:
    insert_rows(
        tx,
        attempt,
        [
            [
                e.lease.task_id,
                e.lease.attempt,
                e.lease.session_id,
                moment_text(e.lease.started_at),
                e.decision.word,
                e.result,
                json_text(e.decision.error),
                e.usage.cpu_ms,
                e.usage.max_rss_kib,
            ]
            for e in endings
        ],
        (
            "task_id",
            "number",
            "session_id",
            "started_at",
            "outcome",
            "result",
            "error",
            "cpu_ms",
            "max_rss_kib",
        ),
        stamped="finished_at",
    )


def recorded_attempts(tx: Transaction, fences: Sequence[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """Of (task id, attempt number) pairs, those that have an outcome, and which."""
    rows = tx.execute(_recorded(tx.dialect), {"fences": document(fences)})
    return {(row.task_id, row.number): row.outcome for row in rows}


@statement
def _recorded(dialect: Dialect) -> sa.Select[Any]:
    rows = dialect.recordset("fences", {"task_id": Id, "number": sa.Integer()})
    return sa.select(attempt.c.task_id, attempt.c.number, attempt.c.outcome).where(
        attempt.c.task_id == rows.c.task_id, attempt.c.number == rows.c.number
    )
