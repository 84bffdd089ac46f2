"""Saved workflows, their versions, and which runs are theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from engine.model.json import JSON
from engine.model.records import SavedWorkflow, WorkflowRun, WorkflowVersion
from engine.model.states import RunState, TaskState
from engine.store.database import LostRace, Transaction
from engine.store.queries import run_of
from engine.store.schema import (
    edge,
    event,
    run,
    schedule,
    task,
    task_state,
    workflow,
    workflow_run,
    workflow_version,
)
from engine.store.statement import insert_rows, json_text, moment_of

# --- definitions


def save(
    tx: Transaction, new_id: str, name: str, definition: JSON, *, description: str, task_count: int
) -> SavedWorkflow:
    """Store the next version of the workflow `name`; the first one gets `new_id`."""
    row = tx.execute(
        sa.select(workflow.c.id, workflow.c.version, workflow.c.created_at)
        .where(workflow.c.name == name)
        .with_for_update()
    ).one_or_none()
    # One moment for both rows: each statement has its own.
    now = tx.execute(sa.select(moment_of(tx.dialect, workflow.c.changed_at))).scalar_one()
    workflow_id, version = (new_id, 1) if row is None else (row.id, row.version + 1)
    try:
        if row is None:
            tx.execute(
                sa.insert(workflow).values(
                    id=new_id, name=name, version=1, created_at=now, changed_at=now, is_enabled=True
                )
            )
        else:
            tx.execute(
                sa.update(workflow)
                .where(workflow.c.id == workflow_id)
                .values(version=version, changed_at=now)
            )
        tx.execute(
            sa.insert(workflow_version).values(
                workflow_id=workflow_id,
                version=version,
                description=description,
                task_count=task_count,
                definition=definition,
                actor=tx.actor,
                created_at=now,
            )
        )
    except sa.exc.IntegrityError as error:
        if tx.dialect.is_duplicate(error):  # somebody saved the same name at the same time
            raise LostRace from error
        raise
    saved = find(tx, workflow_id)
    assert saved is not None
    return saved


# The schedule that comes with a definition, see `operations.schedules.own_id`.
_is_own = schedule.c.id == sa.literal("sch-").concat(workflow.c.id)
_SAVED = (
    sa.select(
        workflow.c.id,
        workflow.c.name,
        workflow.c.is_enabled,
        workflow.c.created_at,
        workflow_version.c.version,
        workflow_version.c.description,
        workflow_version.c.task_count,
        workflow_version.c.created_at.label("changed_at"),
        workflow_version.c.definition,
        sa.and_(schedule.c.id.is_not(None), ~schedule.c.is_paused).label("is_scheduled"),
    )
    .join_from(workflow, workflow_version, workflow_version.c.workflow_id == workflow.c.id)
    .outerjoin(schedule, _is_own)
)
_is_newest = workflow_version.c.version == workflow.c.version


def find(tx: Transaction, key: str, version: int | None = None) -> SavedWorkflow | None:
    """By id or, if no workflow has that id, by name. The newest version unless one is named."""
    wanted = _is_newest if version is None else workflow_version.c.version == version
    for column in (workflow.c.id, workflow.c.name):
        row = tx.execute(_SAVED.where(column == key, wanted)).one_or_none()
        if row is not None:
            return SavedWorkflow(**row._mapping)
    return None


def find_version(tx: Transaction, key: str, version: int | None = None) -> WorkflowVersion | None:
    """As `find`, to start a run. The definition travels as text: a caller's own connection may read JSON in
    ways of its own."""
    wanted = _is_newest if version is None else workflow_version.c.version == version
    text = sa.cast(workflow_version.c.definition, sa.Text).label("definition")
    query = sa.select(
        workflow.c.id, workflow.c.name, workflow_version.c.version, workflow.c.is_enabled, text
    ).join_from(workflow, workflow_version, workflow_version.c.workflow_id == workflow.c.id)
    for column in (workflow.c.id, workflow.c.name):
        row = tx.execute(query.where(column == key, wanted)).one_or_none()
        if row is not None:
            definition = msgspec.json.decode(row.definition)
            return WorkflowVersion(row.id, row.name, row.version, bool(row.is_enabled), definition)
    return None


def list_saved(
    tx: Transaction, *, limit: int | None = None, offset: int = 0
) -> tuple[int, list[SavedWorkflow]]:
    """How many there are, and the newest versions of some of them, last created first."""
    total = tx.execute(sa.select(sa.func.count()).select_from(workflow)).scalar_one()
    query = _SAVED.where(_is_newest).order_by(workflow.c.created_at.desc(), workflow.c.id)
    rows = tx.execute(query.limit(limit).offset(offset))
    return total, [SavedWorkflow(**row._mapping) for row in rows]


def list_versions(
    tx: Transaction, workflow_id: str, *, limit: int | None = None, offset: int = 0
) -> tuple[int, list[SavedWorkflow]]:
    """How many there are of a workflow, and some of them, newest first."""
    mine = workflow_version.c.workflow_id == workflow_id
    total = tx.execute(sa.select(sa.func.count()).select_from(workflow_version).where(mine)).scalar_one()
    query = _SAVED.where(mine).order_by(workflow_version.c.version.desc()).limit(limit).offset(offset)
    return total, [SavedWorkflow(**row._mapping) for row in tx.execute(query)]


def enable(tx: Transaction, workflow_id: str, is_enabled: bool) -> bool:
    """Whether there is such a workflow."""
    changed = tx.execute(
        sa.update(workflow).where(workflow.c.id == workflow_id).values(is_enabled=is_enabled)
    )
    return changed.rowcount == 1


def lock(tx: Transaction, workflow_id: str, *, is_shared: bool = False) -> bool:
    """Keep others from changing or deleting the workflow. Whether it is there."""
    query = sa.select(workflow.c.id).where(workflow.c.id == workflow_id)
    return tx.execute(query.with_for_update(read=is_shared)).first() is not None


def delete(tx: Transaction, workflow_id: str) -> None:
    """Remove a workflow with all versions. Its runs stay, and know what they were runs of."""
    tx.execute(sa.delete(workflow_version).where(workflow_version.c.workflow_id == workflow_id))
    tx.execute(sa.delete(workflow).where(workflow.c.id == workflow_id))


# --- runs


def bind(
    tx: Transaction,
    run_id: int,
    saved: WorkflowVersion,
    params: Mapping[str, JSON],
    *,
    rerun_of: int | None = None,
) -> None:
    """Make a run that was just submitted a run of a workflow."""
    names = ("run_id", "workflow_id", "workflow_name", "version", "params", "rerun_of")
    row = [run_id, saved.id, saved.name, saved.version, json_text(params), rerun_of]
    insert_rows(tx, workflow_run, [row], names)


def unfinished(tx: Transaction, workflow_id: str) -> list[int]:
    """Up to ten runs of a workflow that have not ended."""
    query = (
        sa.select(run.c.id)
        .join(workflow_run, workflow_run.c.run_id == run.c.id)
        .where(workflow_run.c.workflow_id == workflow_id, run.c.finished_at.is_(None))
        .order_by(run.c.id)
        .limit(10)
    )
    return list(tx.execute(query).scalars())


def get_run(tx: Transaction, run_id: int) -> WorkflowRun | None:
    return next(iter(_runs(tx, _RUNS.where(run.c.id == run_id))), None)


def list_runs(
    tx: Transaction,
    *,
    workflow_id: str | None = None,
    states: Sequence[str] = (),
    limit: int = 20,
    offset: int = 0,
    is_oldest_first: bool = False,
) -> tuple[int, list[WorkflowRun]]:
    """How many runs of workflows match, and some of them in the order in which they were submitted."""
    conditions = []
    if workflow_id is not None:
        conditions.append(workflow_run.c.workflow_id == workflow_id)
    if states:
        conditions.append(run.c.state.in_(states))
    counted = sa.select(sa.func.count()).select_from(workflow_run)
    if states:
        counted = counted.join(run, run.c.id == workflow_run.c.run_id)
    total = tx.execute(counted.where(*conditions)).scalar_one()
    order = workflow_run.c.run_id.asc() if is_oldest_first else workflow_run.c.run_id.desc()
    query = _RUNS.where(*conditions).order_by(order).limit(limit).offset(offset)
    return total, _runs(tx, query)


_RUNS = sa.select(run, workflow_run).join_from(workflow_run, run, run.c.id == workflow_run.c.run_id)


def _runs(tx: Transaction, query: sa.Select[Any]) -> list[WorkflowRun]:
    return [
        WorkflowRun(
            run_of(row),
            row.workflow_id,
            row.workflow_name,
            row.version,
            row.params,
            row.rerun_of,
            _error(tx, row.id, RunState(row.state)),
        )
        for row in tx.execute(query).all()
    ]


def _error(tx: Transaction, run_id: int, state: RunState) -> str | None:
    """Why a run did not succeed: the first failure in it, or what it was cancelled for."""
    match state:
        case RunState.FAILED:
            return _first_reason(tx, run_id, TaskState.FAILED)
        case RunState.CANCELLED:
            return _cancelled_for(tx, run_id) or _first_reason(tx, run_id, TaskState.CANCELLED)
        case _:
            return None


def _first_reason(tx: Transaction, run_id: int, state: TaskState) -> str | None:
    """What the first task in that state says; sub-tasks last, whose failures may have been tolerated."""
    is_awaited = sa.exists().where(edge.c.parent_id == task.c.id, edge.c.child_id == task.c.parent_id)
    query = (
        sa.select(task_state.c.reason)
        .join(task, task.c.id == task_state.c.task_id)
        .where(task.c.run_id == run_id, task_state.c.state == state)
        .order_by(is_awaited, task_state.c.changed_at, task.c.id)
        .limit(1)
    )
    return tx.execute(query).scalar_one_or_none()


def _cancelled_for(tx: Transaction, run_id: int) -> str | None:
    """The reason of the cancel that ended the run; None if its tasks were cancelled one by one."""
    query = (
        sa.select(event.c.kind, event.c.detail)
        .where(event.c.run_id == run_id, event.c.kind.in_(("run.cancelling", "run.retried")))
        .order_by(event.c.number.desc())
        .limit(1)
    )
    row = tx.execute(query).one_or_none()
    return None if row is None or row.kind == "run.retried" else row.detail.get("reason")
