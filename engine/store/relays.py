"""Runs whose events somebody has to be told of, and how far that has come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from engine.model.happenings import Happening, Scope
from engine.model.states import RunState
from engine.store.database import Transaction
from engine.store.schema import attempt, event, relay, run, task, workflow_run
from engine.store.statement import insert_rows, json_text


@dataclass(frozen=True, slots=True)
class Relay:
    """`number` is the last event that was dealt with."""

    run_id: int
    number: int
    workflow_id: str
    callbacks: Mapping[str, Any]


def insert(tx: Transaction, run_id: int, workflow_id: str, callbacks: Mapping[str, Any]) -> None:
    row = [run_id, 0, workflow_id, json_text(dict(callbacks))]
    insert_rows(tx, relay, [row], ("run_id", "number", "workflow_id", "callbacks"))


def to_do(tx: Transaction, limit: int, after: int = 0) -> list[int]:
    """Runs with events that were not dealt with, those above `after` by id."""
    query = (
        sa.select(relay.c.run_id)
        .join(run, run.c.id == relay.c.run_id)
        .where(relay.c.run_id > after, is_open())
        .order_by(relay.c.run_id)
        .limit(limit)
    )
    return list(tx.execute(query).scalars())


def is_untold(tx: Transaction, run_id: int) -> bool:
    query = sa.select(relay.c.run_id).join(run, run.c.id == relay.c.run_id)
    return tx.execute(query.where(relay.c.run_id == run_id, is_open())).first() is not None


def is_open() -> sa.ColumnElement[bool]:
    """Whether a run has events that were not dealt with, where its row is joined."""
    return sa.and_(sa.not_(relay.c.is_over), run.c.event_count > relay.c.number)


def take(tx: Transaction, run_id: int, *, waits: bool = False) -> Relay | None:
    """Be the only one who deals with a run's events; None if another is at it and this one does not wait."""
    query = sa.select(relay).where(relay.c.run_id == run_id).with_for_update(skip_locked=not waits)
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    return Relay(run_id, row.number, row.workflow_id, row.callbacks)


def scope(tx: Transaction, run_id: int) -> Scope | None:
    """The run as it is now, None if it is no run of a workflow. Events up to its newest can be read."""
    query = (
        sa.select(run, workflow_run.c.workflow_id, workflow_run.c.workflow_name, workflow_run.c.version)
        .join_from(run, workflow_run, workflow_run.c.run_id == run.c.id)
        .where(run.c.id == run_id)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        return None
    return Scope(
        run_id=run_id,
        workflow_id=row.workflow_id,
        workflow_name=row.workflow_name,
        version=row.version,
        state=RunState(row.state),
        created_at=row.created_at,
        events=row.event_count,
        total=row.total,
        succeeded=row.succeeded,
        failed=row.failed,
    )


def happenings(
    tx: Transaction, run_id: int, *, after: int, until: int, kinds: Collection[str], limit: int, most: int
) -> list[Happening]:
    """The first `limit` events of these kinds numbered above `after`, not above `until`.

    Results of more than `most` characters are left out.
    """
    size = sa.func.length(sa.cast(attempt.c.result, sa.Text))
    query = (
        sa.select(
            event.c.number,
            event.c.kind,
            event.c.at,
            event.c.task_id,
            task.c.name,
            task.c.kind.label("task_kind"),
            task.c.params,
            event.c.attempt,
            attempt.c.outcome,
            sa.case((size <= most, attempt.c.result)).label("result"),
            size.label("result_size"),
            attempt.c.error,
        )
        .select_from(event)
        .outerjoin(task, task.c.id == event.c.task_id)
        .outerjoin(
            attempt,
            sa.and_(attempt.c.task_id == event.c.task_id, attempt.c.number == event.c.attempt),
        )
        .where(
            event.c.run_id == run_id,
            event.c.number > after,
            event.c.number <= until,
            event.c.kind.in_(sorted(kinds)),
        )
        .order_by(event.c.number)
        .limit(limit)
    )
    return [Happening(**row._mapping) for row in tx.execute(query)]


def move_on(tx: Transaction, run_id: int, number: int, *, is_over: bool) -> None:
    tx.execute(sa.update(relay).where(relay.c.run_id == run_id).values(number=number, is_over=is_over))


def reopen(tx: Transaction, run_id: int) -> None:
    """A run that had ended goes on. Before its tasks are touched: whoever tells of it has locked this row."""
    tx.execute(sa.update(relay).where(relay.c.run_id == run_id).values(is_over=False))
