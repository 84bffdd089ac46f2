"""Finishes: how attempts ended is recorded, and what waited for them released. Fenced by the token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Reach
from engine.model.records import Lease
from engine.model.states import FINAL_TASK_STATES, TRANSITIONS, Move, TaskState
from engine.model.tally import Change
from engine.store import claims, sagas, successes
from engine.store.bookkeeping import record
from engine.store.claims import ClaimRequest
from engine.store.database import Later, Transaction
from engine.store.dialects.base import Dialect
from engine.store.endings import Ending, Fence, end_running, lock, missing, paused_among
from engine.store.moves import moved
from engine.store.resolve import release_dependents
from engine.store.schema import Id, attempt, task_state
from engine.store.statement import document, insert_rows, json_text, statement


def apart(dialect: Dialect, endings: Sequence[Ending]) -> list[Sequence[Ending]]:
    """The first ending of each attempt, plain successes apart from all others.

    Plain successes alone are one statement; one other outcome would send them all through the steps.
    """
    firsts: dict[Fence, Ending] = {}
    for ending in endings:
        firsts.setdefault(ending.fence, ending)
    if not dialect.writes_in_with:
        return [list(firsts.values())]
    plain: list[Ending] = []
    others: list[Ending] = []
    for ending in firsts.values():
        (plain if ending.is_plain else others).append(ending)
    return [group for group in (others, plain) if group]


def finish(tx: Transaction, endings: Sequence[Ending]) -> Later[list[Ending]]:
    """Record how attempts, each another, ended and release what was waiting for them, in one transaction.

    Only rows that still carry the lease's token change; returns the endings of all others, for which nothing
    at all is written.
    """
    if tx.dialect.writes_in_with and all(ending.is_plain for ending in endings):
        return successes.finish(tx, endings)
    refused, changes = _end(tx, endings)
    record(tx, list(changes))
    _compensate(tx, endings)
    return Later(lambda: refused)


def finish_and_claim(
    tx: Transaction, endings: Sequence[Ending], request: ClaimRequest
) -> Later[tuple[list[Ending], list[Lease], int]]:
    """`finish`, then `claim`, in one transaction: what was released need not wait for another.

    Answers besides how many tasks stand below those that ended, 0 if that was not counted.
    Raises `Busy` if somebody owns one of the runs: a worker must not wait for that with everything it does.
    The rows of all runs concerned are locked together, in order: two such transactions could dead-lock.
    """
    tx.give_way()
    if tx.dialect.writes_in_with and all(ending.is_plain for ending in endings):
        return successes.finish_and_claim(tx, endings, request)
    refused, ended = _end(tx, endings)
    claimed, started = claims.take(tx, request)()
    changes = list(ended)
    available = {change.task_id for change in changes if change.target is TaskState.AVAILABLE}
    if available <= {lease.task_id for lease in claimed}:
        tx.wakes.discard(request.queue)  # nothing is left for anybody else
    record(tx, [*changes, *started])
    _compensate(tx, endings)
    return Later(lambda: (refused, claimed, 0))


def _compensate(tx: Transaction, endings: Sequence[Ending]) -> None:
    if run_ids := {e.lease.run_id for e in endings if e.lease.reach is Reach.SAGA}:
        sagas.settle(tx, run_ids)


# --- any outcome, in steps


def _end(tx: Transaction, endings: Sequence[Ending]) -> tuple[list[Ending], Iterable[Change]]:
    concerned = lock(tx, endings)
    run_ids = tx.dialect.array({ending.lease.run_id for ending in endings})
    paused_runs = tx.execute(_paused_runs(tx.dialect), {"runs": run_ids})
    changes: list[Change] = []
    accepted: list[Ending] = []
    for kind, group in _by_move(tx, endings, paused_runs).items():
        written = _write_endings(tx, kind, group)
        _write_attempts(tx, written)
        accepted += [ending for ending, _ in written]
        changes += [_change(kind, ending) for ending, _ in written]
    refused = missing(endings, [ending.fence for ending in accepted])
    if not accepted:
        return refused, []
    settled = {
        change.task_id: change.target
        for change in changes
        if change.task_id in concerned and change.target in FINAL_TASK_STATES
    }
    released = release_dependents(tx, settled, set(paused_runs.scalars()))
    return refused, chain(changes, released)


@statement
def _paused_runs(dialect: Dialect) -> sa.Select[Any]:
    return paused_among(dialect)


@statement
def _as_they_are(dialect: Dialect) -> sa.Select[Any]:
    """`lock` keeps what a task waits for from ending between this look and what follows from it."""
    row = task_state.c
    return sa.select(row.task_id, row.is_cancelling, row.waiting_on).where(dialect.is_any(row.task_id, "ids"))


def _by_move(tx: Transaction, endings: Iterable[Ending], paused_runs: Any) -> dict[Move, list[Ending]]:
    groups: dict[Move, list[Ending]] = defaultdict(list)
    for ending in endings:
        groups[ending.decision.move].append(ending)
    go_on = [*groups.pop(Move.RETRY, ()), *groups.pop(Move.AWAIT, ())]
    if go_on:
        paused = set(paused_runs.scalars())
        ids = {"ids": tx.dialect.array(ending.lease.task_id for ending in go_on)}
        rows = {row.task_id: row for row in tx.execute(_as_they_are(tx.dialect), ids)}
        for ending in go_on:
            groups[_next(ending, rows.get(ending.lease.task_id), paused)].append(ending)
    return groups


def _next(ending: Ending, row: Any, paused: Collection[int]) -> Move:
    """How a task goes on that has not ended. Without a row, whatever: it is not ours any more."""
    if row is not None and row.is_cancelling:  # after a cancel nothing starts anew
        return Move.CANCEL
    if row is not None and ending.decision.move is Move.AWAIT and row.waiting_on:
        return Move.AWAIT
    return Move.RETRY_HELD if ending.lease.run_id in paused else Move.RETRY


def _write_endings(tx: Transaction, kind: Move, endings: Sequence[Ending]) -> list[tuple[Ending, Any]]:
    """Those that still held their lease, each with the time when it was claimed, as the driver has it."""
    rows = tx.execute(
        _finish(tx.dialect, kind), {"moved": document(_written(kind, e) for e in endings)}
    ).all()
    if TRANSITIONS[kind].target is TaskState.AVAILABLE:
        tx.wakes |= {row.queue for row in rows}
    started = {(row.task_id, row.attempt): row.started_at for row in rows}
    return [(ending, started[fence]) for ending in endings if (fence := ending.fence) in started]


_RETRIES = (Move.RETRY, Move.RETRY_HELD)


def _written(kind: Move, ending: Ending) -> tuple[Any, ...]:
    """What an ending writes into its row: no more, as the database reads each value of each row."""
    lease, decision = ending.lease, ending.decision
    if kind is Move.SUCCEED:
        return lease.task_id, lease.token, ending.branch
    counts = decision.failures, decision.crashes
    if kind in _RETRIES:
        return lease.task_id, lease.token, *counts, decision.delay_ms
    return lease.task_id, lease.token, *counts, None if decision.error is None else decision.error["message"]


@statement
def _finish(dialect: Dialect, kind: Move) -> sa.Update:
    read = partial(moved, dialect, token=sa.Text())
    if kind is Move.SUCCEED:
        rows = read(branch=sa.Text())
        values: dict[str, Any] = {"branch": rows.c.branch, "reason": sa.null()}  # it was asked to stop
    else:
        counts = {"failures": sa.Integer(), "crashes": sa.Integer()}
        if kind in _RETRIES:
            rows = read(**counts, delay_ms=sa.BigInteger())
            later = dialect.later(rows.c.delay_ms)
            values = {"available_at": sa.type_coerce(later, task_state.c.available_at.type)}
        else:
            rows = read(**counts, reason=sa.Text())
            values = {"reason": rows.c.reason}
            if kind is Move.CANCEL:  # the one that was given with it
                values["reason"] = sa.func.coalesce(task_state.c.reason, rows.c.reason)
        if kind is Move.AWAIT:
            values["delay_ms"] = 0  # it has waited for that before its first attempt
        values |= {name: task_state.c[name] + rows.c[name] for name in counts}
    started_at = sa.type_coerce(task_state.c.started_at, sa.types.NULLTYPE).label("started_at")
    return end_running(dialect, kind, rows, (started_at,), **values)


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


def _write_attempts(tx: Transaction, endings: Iterable[tuple[Ending, Any]]) -> None:
    insert_rows(
        tx,
        attempt,
        [
            (
                e.lease.task_id,
                e.lease.attempt,
                e.lease.session_id,
                started_at,
                e.decision.word,
                e.result,
                json_text(e.decision.error),
                *e.usage,
            )
            for e, started_at in endings
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


# --- what was recorded


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
