"""What the tasks before a task returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from engine.model.json import JSON
from engine.model.states import TaskState
from engine.model.sub_tasks import MOST_BYTES, SubTask
from engine.model.upstream import Result, Results
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import attempt, edge, state_is, task, task_state
from engine.store.statement import statement


def direct(tx: Transaction, task_id: int) -> Results:
    """Of the upstream tasks that succeeded, and of those that failed and have one."""
    rows = tx.execute(_direct(tx.dialect), {"task": task_id})
    return Results(
        Result(row.id, row.name, row.result, TaskState(row.state) is TaskState.SUCCEEDED) for row in rows
    )


def named(tx: Transaction, run_id: int, names: Sequence[str]) -> dict[str, JSON]:
    """Of these tasks of a run, the results of those that succeeded."""
    if not names:
        return {}
    binds = {"run": run_id, "names": tx.dialect.array(names)}
    return {row.name: row.result for row in tx.execute(_named(tx.dialect), binds)}


def added(tx: Transaction, task_id: int) -> list[SubTask]:
    """The tasks that a task has added and waits for, in the order of their addition.

    From where their results add up to more than `MOST_BYTES`, these are not read.
    """
    rows = tx.execute(_added(tx.dialect), {"task": task_id})
    return [
        SubTask(row.id, row.name, TaskState(row.state), row.result, row.error, is_large=row.is_large)
        for row in rows
    ]


_newest = sa.and_(attempt.c.task_id == task_state.c.task_id, attempt.c.number == task_state.c.attempt)
_succeeded = state_is(task_state.c.state, TaskState.SUCCEEDED)
_failed = state_is(task_state.c.state, TaskState.FAILED)


# Joined in the order in which they are to be read, see the dialects.
@statement
def _direct(dialect: Dialect) -> sa.Select[Any]:
    return (
        sa.select(task.c.id, task.c.name, attempt.c.result, task_state.c.state)
        .select_from(edge)
        .join(task_state, task_state.c.task_id == edge.c.parent_id)
        .join(attempt, _newest)
        .join(task, task.c.id == edge.c.parent_id)
        .where(edge.c.child_id == sa.bindparam("task", type_=edge.c.child_id.type))
        .where(sa.or_(_succeeded, sa.and_(_failed, attempt.c.result.is_not(None))))
        .where(task.c.parent_id.is_distinct_from(edge.c.child_id))  # those it added itself
        .order_by(task.c.id)
    )


@statement
def _added(dialect: Dialect) -> sa.Select[Any]:
    size = sa.func.coalesce(sa.func.length(sa.cast(attempt.c.result, sa.Text)), 0)
    is_large = sa.func.sum(size).over(order_by=task.c.id) > MOST_BYTES
    result = sa.case((is_large, sa.null()), else_=attempt.c.result).label("result")
    return (
        sa.select(
            task.c.id,
            task.c.name,
            task_state.c.state,
            result,
            attempt.c.error,
            sa.and_(is_large, size > 0).label("is_large"),
        )
        .select_from(edge)
        .join(task_state, task_state.c.task_id == edge.c.parent_id)
        .outerjoin(attempt, _newest)
        .join(task, task.c.id == edge.c.parent_id)
        .where(edge.c.child_id == sa.bindparam("task", type_=edge.c.child_id.type))
        .where(task.c.parent_id == edge.c.child_id)
        .order_by(task.c.id)
    )


@statement
def _named(dialect: Dialect) -> sa.Select[Any]:
    of_run = task.c.run_id == sa.bindparam("run", type_=task.c.run_id.type)
    return (
        sa.select(task.c.name, attempt.c.result)
        .select_from(task)
        .join(task_state, task_state.c.task_id == task.c.id)
        .join(attempt, _newest)
        .where(of_run, dialect.is_any(task.c.name, "names"), _succeeded)
    )
