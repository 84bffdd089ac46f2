"""The read side: runs, tasks, attempts, logs, events, totals. Nothing here writes or locks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from engine.model.records import Attempt, Event, LogLine, Run, Task
from engine.model.retry import RetryPolicy
from engine.model.skips import Skip, Skips, below_failures
from engine.model.states import Move, RunState, TaskState
from engine.store.database import Transaction
from engine.store.schema import (
    alias,
    attempt,
    counter,
    edge,
    event,
    run,
    task,
    task_log,
    task_progress,
    task_state,
    worker_session,
)

# --- runs


def get_run(tx: Transaction, run_id: int) -> Run | None:
    row = tx.execute(sa.select(run).where(run.c.id == run_id)).one_or_none()
    return None if row is None else run_of(row)


def list_runs(
    tx: Transaction,
    *,
    state: str | None = None,
    name: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Run]:
    """Newest first; `before` is the id of the last run already seen."""
    query = sa.select(run).order_by(run.c.id.desc()).limit(limit)
    if state is not None:
        query = query.where(run.c.state == state)
    if name is not None:
        query = query.where(run.c.name == name)
    if before is not None:
        query = query.where(run.c.id < before)
    return [run_of(row) for row in tx.execute(query)]


def run_of(row: Any) -> Run:
    return Run(
        id=row.id,
        state=RunState(row.state),
        name=row.name,
        labels=row.labels or {},
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        is_cancelling=row.is_cancelling,
        events=row.event_count,
        total=row.total,
        running=row.running,
        succeeded=row.succeeded,
        failed=row.failed,
        skipped=row.skipped,
        cancelled=row.cancelled,
    )


# --- tasks

_last = attempt.alias("last")
_TASKS = (
    sa.select(
        task,
        task_state,
        _last.c.number.label("last_number"),
        _last.c.outcome,
        _last.c.started_at.label("last_started_at"),
        _last.c.finished_at,
        _last.c.result,
        _last.c.error,
        _last.c.cpu_ms,
        _last.c.max_rss_kib,
        worker_session.c.name.label("worker"),
        task_progress.c.document.label("progress"),
    )
    .join_from(task, task_state, task_state.c.task_id == task.c.id)
    .outerjoin(_last, sa.and_(_last.c.task_id == task.c.id, _last.c.number == task_state.c.attempt))
    .outerjoin(worker_session, worker_session.c.id == task_state.c.session_id)
    .outerjoin(task_progress, task_progress.c.task_id == task.c.id)
)


def get_task(tx: Transaction, task_id: int) -> Task | None:
    return next(iter(_tasks(tx, _TASKS.where(task.c.id == task_id))), None)


def get_task_by_name(tx: Transaction, run_id: int, name: str) -> Task | None:
    return next(iter(_tasks(tx, _TASKS.where(task.c.run_id == run_id, task.c.name == name))), None)


def list_tasks(
    tx: Transaction,
    run_id: int,
    *,
    state: str | None = None,
    after: int | None = None,
    limit: int = 1000,
) -> list[Task]:
    """Tasks of a run in the order of submission; `after` is the id of the last one already seen."""
    query = _TASKS.where(task.c.run_id == run_id).order_by(task.c.id).limit(limit)
    if state is not None:
        query = query.where(task_state.c.state == state)
    if after is not None:
        query = query.where(task.c.id > after)
    return _tasks(tx, query)


def _tasks(tx: Transaction, query: sa.Select[Any]) -> list[Task]:
    rows = tx.execute(query).all()
    parents = _parent_names(tx, [row.id for row in rows if row.state])
    return [_task(row, tuple(parents.get(row.id, ()))) for row in rows]


def _parent_names(tx: Transaction, task_ids: Sequence[int]) -> dict[int, list[str]]:
    names: dict[int, list[str]] = defaultdict(list)
    query = (
        sa.select(edge.c.child_id, task.c.name)
        .join_from(edge, task, task.c.id == edge.c.parent_id)
        .where(tx.dialect.is_any(edge.c.child_id, "ids"))
        .order_by(edge.c.parent_id)
    )
    for row in tx.execute(query, {"ids": tx.dialect.array(task_ids)}):
        names[row.child_id].append(row.name)
    return names


def _task(row: Any, depends_on: tuple[str, ...]) -> Task:
    return Task(
        id=row.id,
        run_id=row.run_id,
        name=row.name,
        kind=row.kind,
        params=row.params,
        state=TaskState(row.state),
        queue=row.queue,
        priority=-row.rank,
        rule=row.rule or "all_success",
        depends_on=depends_on,
        timeout_ms=row.timeout_ms,
        retry=RetryPolicy.from_json(row.retry),
        created_at=row.created_at,
        changed_at=row.changed_at,
        available_at=row.available_at,
        waiting_on=row.waiting_on,
        attempt=row.attempt,
        failures=row.failures,
        crashes=row.crashes,
        reason=row.reason,
        last=_newest_attempt(row),
        client=row.client,
        progress=row.progress,
        parent_id=row.parent_id,
    )


def _newest_attempt(row: Any) -> Attempt | None:
    if not row.attempt:
        return None
    if row.last_number is None:  # still running: the row is written when the attempt ends
        return Attempt(row.attempt, "running", row.worker, row.started_at, None)
    return Attempt(
        row.attempt,
        row.outcome,
        row.worker,
        row.last_started_at,
        row.finished_at,
        row.result,
        row.error,
        row.cpu_ms,
        row.max_rss_kib,
    )


def list_attempts(tx: Transaction, task_id: int) -> list[Attempt]:
    """Every attempt that has ended, first to last."""
    query = (
        sa.select(attempt, worker_session.c.name.label("worker"))
        .outerjoin(worker_session, worker_session.c.id == attempt.c.session_id)
        .where(attempt.c.task_id == task_id)
        .order_by(attempt.c.number)
    )
    return [
        Attempt(
            row.number,
            row.outcome,
            row.worker,
            row.started_at,
            row.finished_at,
            row.result,
            row.error,
            row.cpu_ms,
            row.max_rss_kib,
        )
        for row in tx.execute(query)
    ]


def list_edges(
    tx: Transaction, run_id: int, *, limit: int | None = None
) -> list[tuple[str, str, str | None]]:
    """(upstream name, downstream name, condition) of a run, in id order."""
    parent, child = task.alias("parent"), task.alias("child")
    query = (
        sa.select(parent.c.name.label("parent"), child.c.name.label("child"), edge.c.condition)
        .join_from(parent, edge, edge.c.parent_id == parent.c.id)
        .join(child, child.c.id == edge.c.child_id)
        .where(parent.c.run_id == run_id)
        .order_by(edge.c.parent_id, edge.c.child_id)
        .limit(limit)
    )
    return [(row.parent, row.child, row.condition) for row in tx.execute(query)]


# --- events and logs


def list_events(tx: Transaction, run_id: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
    """Events of a run with a number above `after`, in order and without gaps."""
    query = (
        sa.select(event, task.c.name.label("task_name"))
        .outerjoin(task, task.c.id == event.c.task_id)
        .where(event.c.run_id == run_id, event.c.number > after)
        .order_by(event.c.number)
        .limit(limit)
    )
    return [
        Event(
            row.run_id,
            row.number,
            row.kind,
            row.task_id,
            row.task_name,
            row.attempt,
            row.at,
            row.actor,
            row.detail,
        )
        for row in tx.execute(query)
    ]


_RETRIED = "run.retried"


def skips(tx: Transaction, run_id: int) -> Skips:
    """The skipped tasks of a run that stand below a failed one. Reads the events of all that were skipped."""
    query = (
        sa.select(
            event.c.number, event.c.kind, event.c.task_id, event.c.detail, task.c.name, task_state.c.rule
        )
        .outerjoin_from(event, task, task.c.id == event.c.task_id)
        .outerjoin(task_state, task_state.c.task_id == event.c.task_id)
        .where(event.c.run_id == run_id, event.c.kind.in_((Move.SKIP, _RETRIED)))
        .order_by(event.c.number)
    )
    numbers: set[int] = set()
    since_retry: list[Skip] = []
    upto = 0
    for row in tx.execute(query):
        upto = row.number
        if row.kind == _RETRIED:
            numbers.update(skip.number for skip in below_failures(since_retry))
            since_retry = []
        else:
            reason = (row.detail or {}).get("reason") or ""
            since_retry.append(Skip(row.number, row.task_id, row.name, row.rule, reason))
    now = below_failures(since_retry)
    numbers.update(skip.number for skip in now)
    return Skips(upto, frozenset(numbers), frozenset(skip.task_id for skip in now))


def list_logs(
    tx: Transaction, run_id: int, *, task_name: str | None = None, limit: int = 1000, offset: int = 0
) -> list[LogLine]:
    """Captured output of a run's tasks, oldest first."""
    query = (
        sa.select(task_log, task.c.name.label("task_name"))
        .join(task, task.c.id == task_log.c.task_id)
        .where(task.c.run_id == run_id)
        .order_by(task_log.c.at, task_log.c.task_id, task_log.c.attempt, task_log.c.number)
        .limit(limit)
        .offset(offset)
    )
    if task_name is not None:
        query = query.where(task.c.name == task_name)
    return [
        LogLine(row.task_id, row.task_name, row.attempt, row.number, row.at, row.stream, row.text)
        for row in tx.execute(query)
    ]


# --- names that client contracts gave


def get_aliased(tx: Transaction, contract: str, name: str) -> Task | None:
    query = _TASKS.join(alias, alias.c.task_id == task.c.id).where(
        alias.c.contract == contract, alias.c.name == name
    )
    return next(iter(_tasks(tx, query)), None)


def list_aliased(
    tx: Transaction,
    contract: str,
    *,
    states: Sequence[str] = (),
    kinds: Sequence[str] = (),
    failed_before: bool | None = None,
    run_id: int | None = None,
    after: int | None = None,
    offset: int = 0,
    limit: int | None = None,
) -> list[Task]:
    """Tasks a contract can see, by task id; `after` is the id of the last one already seen.

    `failed_before` says whether tasks that do not run now must have failed before, or must not.
    """
    query = (
        _TASKS.join(alias, alias.c.task_id == task.c.id)
        .where(alias.c.contract == contract)
        .order_by(alias.c.task_id)  # which has an index: sorted anew, each page would cost as much as all
        .offset(offset)
    )
    if limit is not None:
        query = query.limit(limit)
    if states:
        query = query.where(task_state.c.state.in_(states))
    if kinds:
        query = query.where(task.c.kind.in_(kinds))
    if failed_before is not None:
        waits = task_state.c.state != TaskState.RUNNING
        has_failed = task_state.c.failures > 0
        query = query.where(sa.or_(~waits, has_failed) if failed_before else ~has_failed)
    if run_id is not None:
        query = query.where(task.c.run_id == run_id)
    if after is not None:
        query = query.where(alias.c.task_id > after)
    return _tasks(tx, query)


# --- totals


def totals(tx: Transaction) -> Counter[str]:
    """Counters since the database was made, summed over processes. Constant cost."""
    rows = tx.execute(
        sa.select(counter.c.name, sa.func.sum(counter.c.value).label("value")).group_by(counter.c.name)
    )
    return Counter({row.name: int(row.value) for row in rows})
