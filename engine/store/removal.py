"""Runs removed whole, with everything that belongs to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.relays import is_open
from engine.store.schema import (
    alias,
    attempt,
    compensation,
    edge,
    event,
    idempotency_key,
    relay,
    run,
    saga,
    signal,
    step,
    task,
    task_log,
    task_progress,
    task_state,
    workflow_run,
)
from engine.store.statement import statement
from engine.store.stream_schema import stream, stream_batch, stream_item

_UNTOLD_SECONDS = 7 * 86_400.0


def delete(tx: Transaction, run_ids: Sequence[int]) -> int:
    """Remove runs and all that belongs to them. Returns the number of tasks removed."""
    binds = {"ids": tx.dialect.array(run_ids)}
    task_ids = list(tx.execute(_task_ids(tx.dialect), binds).scalars())
    tasks = {"ids": tx.dialect.array(task_ids)}
    for table, column in (
        (edge, edge.c.parent_id),
        (attempt, attempt.c.task_id),
        (task_log, task_log.c.task_id),
        (task_progress, task_progress.c.task_id),
        (alias, alias.c.task_id),
        (compensation, compensation.c.task_id),
        (step, step.c.task_id),
        (stream, stream.c.task_id),
        (stream_item, stream_item.c.task_id),
        (stream_batch, stream_batch.c.task_id),
        (task_state, task_state.c.task_id),
        (task, task.c.id),
    ):
        tx.execute(sa.delete(table).where(tx.dialect.is_any(column, "ids")), tasks)
    for table, column in (
        (event, event.c.run_id),
        (idempotency_key, idempotency_key.c.run_id),
        (workflow_run, workflow_run.c.run_id),
        (saga, saga.c.run_id),
        (relay, relay.c.run_id),
        (signal, signal.c.run_id),
        (run, run.c.id),
    ):
        tx.execute(sa.delete(table).where(tx.dialect.is_any(column, "ids")), binds)
    return len(task_ids)


@statement
def _task_ids(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(task.c.id).where(dialect.is_any(task.c.run_id, "ids"))


def finished_before(tx: Transaction, seconds: float, max_runs: int, max_tasks: int) -> list[int]:
    """Ids of runs that finished more than `seconds` ago, oldest first: one, or several with few tasks.

    Those whose events somebody is still to be told of stay a week longer.
    """
    limit_moment = tx.dialect.later(sa.literal(-seconds * 1000))
    longer = tx.dialect.later(sa.literal(-(seconds + _UNTOLD_SECONDS) * 1000))
    cutoff = sa.type_coerce(limit_moment, run.c.finished_at.type)
    untold = sa.and_(
        sa.exists().where(relay.c.run_id == run.c.id, is_open()),
        run.c.finished_at >= sa.type_coerce(longer, run.c.finished_at.type),
    )
    query = (
        sa.select(run.c.id, run.c.total)
        .where(run.c.finished_at.is_not(None), run.c.finished_at < cutoff, sa.not_(untold))
        .order_by(run.c.finished_at)
        .limit(max_runs)
    )
    found: list[int] = []
    for row in tx.execute(query).all():
        max_tasks -= row.total
        if found and max_tasks < 0:
            break
        found.append(row.id)
    return found


def own_finished(tx: Transaction, run_ids: Sequence[int]) -> list[int]:
    """Be alone in these runs. Returns those that are finished still: a retry may have been faster."""
    tx.dialect.own_runs(tx, sorted(run_ids))
    query = sa.select(run.c.id).where(tx.dialect.is_any(run.c.id, "ids"), run.c.finished_at.is_not(None))
    return list(tx.execute(query, {"ids": tx.dialect.array(run_ids)}).scalars())
