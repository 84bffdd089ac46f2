"""Worker sessions: one row per lifetime of a worker process. Its beat is written by `store.beat`."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from engine.model.outcomes import NO_REASON
from engine.model.records import Holder, Lease, WorkerSession
from engine.model.states import TaskState
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import Id, is_still, state_is, task_log, task_progress, task_state, worker_session
from engine.store.statement import document, insert_rows, json_text, moment_of, moment_text, statement


def register(
    tx: Transaction, *, name: str, host: str, pid: int, version: str, queues: list[str], concurrency: int
) -> int:
    """Open a session and return its id: random, so that no two databases on one host share one.

    Processes of tasks carry it, and are killed by it when their worker is gone.
    """
    session_id = secrets.randbits(48)
    insert_rows(
        tx,
        worker_session,
        [[session_id, name, host, pid, version, json_text(queues), concurrency]],
        ("id", "name", "host", "pid", "version", "queues", "concurrency"),
        stamped="started_at",
    )
    return session_id


def end(tx: Transaction, session_id: int, reason: str, beat: int | None = None) -> bool:
    """End a session; with `beat`, only if it has not beaten since. Returns whether this call ended it."""
    update = sa.update(worker_session).where(
        worker_session.c.id == session_id, worker_session.c.ended_at.is_(None)
    )
    if beat is not None:
        update = update.where(worker_session.c.beat == beat)
    ended_at = moment_of(tx.dialect, worker_session.c.ended_at)
    return tx.execute(update.values(ended_at=ended_at, end_reason=reason)).rowcount == 1


def live_sessions(tx: Transaction) -> list[WorkerSession]:
    return sessions(tx, only_live=True)


def sessions(
    tx: Transaction, *, only_live: bool = False, limit: int | None = None, offset: int = 0
) -> list[WorkerSession]:
    """Newest first."""
    query = (
        sa.select(worker_session)
        .order_by(worker_session.c.started_at.desc(), worker_session.c.id)
        .limit(limit)
        .offset(offset)
    )
    if only_live:
        query = query.where(worker_session.c.ended_at.is_(None))
    return [_session(row) for row in tx.execute(query)]


def sessions_to_clear(tx: Transaction) -> list[WorkerSession]:
    """Sessions that have ended and still hold running tasks, however that came about."""
    query = sa.select(worker_session).where(
        worker_session.c.ended_at.is_not(None), worker_session.c.id.in_(_holding())
    )
    return [_session(row) for row in tx.execute(query)]


def _holding() -> sa.Select[Any]:
    is_running = state_is(task_state.c.state, TaskState.RUNNING)
    return sa.select(task_state.c.session_id).where(is_running).distinct()


def _session(row: Any) -> WorkerSession:
    return WorkerSession(
        id=row.id,
        name=row.name,
        host=row.host,
        pid=row.pid,
        started_at=row.started_at,
        beat=row.beat,
        ended_at=row.ended_at,
        end_reason=row.end_reason,
        queues=row.queues or [],
        concurrency=row.concurrency,
    )


def forget(tx: Transaction, seconds: float) -> int:
    """Remove sessions that ended more than `seconds` ago and hold nothing. Attempts keep their number."""
    cutoff = sa.type_coerce(tx.dialect.later(sa.literal(-seconds * 1000)), worker_session.c.ended_at.type)
    old = sa.delete(worker_session).where(
        worker_session.c.ended_at < cutoff, worker_session.c.id.not_in(_holding())
    )
    return tx.execute(old).rowcount


def orders(tx: Transaction, session_id: int) -> dict[int, tuple[str, str | None]]:
    """What a session still holds: task id → (token, why it is to stop, None if it is not)."""
    rows = tx.execute(_orders(tx.dialect), {"session": session_id})
    return {
        row.task_id: (row.token, (row.reason or NO_REASON) if row.is_cancelling else None) for row in rows
    }


@statement
def _orders(dialect: Dialect) -> sa.Select[Any]:
    row = task_state.c
    return sa.select(row.task_id, row.token, row.is_cancelling, row.reason).where(
        row.session_id == sa.bindparam("session", type_=Id), state_is(row.state, TaskState.RUNNING)
    )


# --- what running tasks leave behind, all of it fenced


def _is_current(lease: Lease) -> sa.ColumnElement[bool]:
    return sa.and_(
        task_state.c.task_id == lease.task_id,
        task_state.c.token == lease.token,
        is_still(task_state.c.state, TaskState.RUNNING),
    )


def holds(tx: Transaction, lease: Lease) -> bool:
    """Whether the lease is current; its row stays locked until the transaction ends."""
    query = sa.select(task_state.c.task_id).where(_is_current(lease)).with_for_update()
    return tx.execute(query).first() is not None


def append_logs(tx: Transaction, lines: Iterable[tuple[Holder, int, Any, str, str]]) -> None:
    """Append (holder, number, time, stream, text); lines of leases that are not current are dropped."""
    rows = document(
        [task_id, attempt, number, moment_text(at), stream, text, token]
        for (task_id, attempt, token), number, at, stream, text in lines
    )
    tx.execute(_append_logs(tx.dialect), {"lines": rows})


_LOG_COLUMNS = ("task_id", "attempt", "number", "at", "stream", "text")


@statement
def _append_logs(dialect: Dialect) -> Any:
    rows = dialect.recordset(
        "lines", {**{name: task_log.c[name].type for name in _LOG_COLUMNS}, "token": sa.Text()}
    )
    lines = sa.select(*[rows.c[name] for name in _LOG_COLUMNS]).where(
        task_state.c.task_id == rows.c.task_id,
        task_state.c.token == rows.c.token,
        task_state.c.attempt == rows.c.attempt,
    )
    return dialect.insert(task_log).from_select(_LOG_COLUMNS, lines).on_conflict_do_nothing()


def write_progress(tx: Transaction, lease: Lease, progress: Any) -> bool:
    """Replace the progress document of a running task. Returns False if the lease is lost."""
    if not holds(tx, lease):
        return False
    values = {
        "attempt": lease.attempt,
        "at": moment_of(tx.dialect, task_progress.c.at),
        "document": progress,
    }
    insert = tx.dialect.insert(task_progress).values(task_id=lease.task_id, **values)
    tx.execute(insert.on_conflict_do_update(index_elements=["task_id"], set_=values))
    return True
