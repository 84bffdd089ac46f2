"""What streams read: rows of runs, events with what explains them, and which runs of a workflow matter.

Nothing here writes, locks, or knows of sockets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.model.records import Event, Run
from engine.model.states import FINAL_RUN_STATES, Move, RunState
from engine.store.database import Transaction
from engine.store.queries import run_of
from engine.store.schema import attempt, event, run, task, task_state, workflow, workflow_run
from engine.store.statement import document, moment_of
from engine.store.workflows import get_run

_SETTLED = {f"run.{state}": state for state in (*FINAL_RUN_STATES, RunState.PAUSED)}
_STATES: dict[str, RunState | None] = {
    **_SETTLED,
    "run.submitted": RunState.PENDING,
    "run.started": RunState.RUNNING,
    "run.resumed": None,  # running if it had started before, otherwise pending
    "run.retried": None,
}
_ENDS = [f"run.{state}" for state in sorted(FINAL_RUN_STATES)]
_EXPLAINED = (Move.SKIP, Move.DECLINE, Move.CANCEL, Move.FAIL)


@dataclass(frozen=True, slots=True)
class Told:
    """An event, and what a reader is told besides."""

    event: Event
    state: RunState | None  # of the run from this event on; None for events of tasks
    error: str | None = None
    is_timeout: bool = False

    @property
    def number(self) -> int:
        return self.event.number


@dataclass(frozen=True, slots=True)
class Span:
    """Events of a run that are numbered above `above`, up to `upto`."""

    above: int
    upto: int


def now(tx: Transaction) -> datetime:
    query = event.select().with_only_columns(moment_of(tx.dialect, event.c.at).label("now"))
    moment: datetime = tx.execute(query).scalar_one()
    return moment


# --- runs


def workflows(tx: Transaction, workflow_ids: Iterable[str]) -> set[str]:
    """Those of the workflows that are there."""
    return set(tx.execute(sa.select(workflow.c.id).where(workflow.c.id.in_(list(workflow_ids)))).scalars())


def runs(tx: Transaction, run_ids: Iterable[int]) -> dict[int, Run]:
    """Those of the runs that are there."""
    query = run.select().where(tx.dialect.is_any(run.c.id, "ids"))
    rows = tx.execute(query, {"ids": tx.dialect.array(sorted(run_ids))})
    return {row.id: run_of(row) for row in rows}


def alive(tx: Transaction, workflow_id: str, since: datetime) -> list[Run]:
    """Runs of a workflow that have not ended, or ended after `since`. Looks at each of its runs."""
    is_alive = run.c.finished_at.is_(None) | (run.c.finished_at > since)
    return [run_of(row) for row in tx.execute(_of_workflow(workflow_id).where(is_alive).order_by(run.c.id))]


def ended_between(
    tx: Transaction, workflow_id: str, after: datetime, until: datetime, limit: int
) -> list[Run]:
    """Runs of a workflow that ended after `after` and not after `until`, in the order of their ends."""
    query = (
        _of_workflow(workflow_id)
        .where(run.c.finished_at > after, run.c.finished_at <= until)
        .order_by(run.c.finished_at, run.c.id)
        .limit(limit)
    )
    return [run_of(row) for row in tx.execute(query)]


def newest(tx: Transaction, workflow_id: str) -> Run | None:
    """The run of a workflow with the highest id."""
    row = tx.execute(_of_workflow(workflow_id).order_by(workflow_run.c.run_id.desc()).limit(1)).first()
    return None if row is None else run_of(row)


def _of_workflow(workflow_id: str) -> Any:
    source = workflow_run.join(run, run.c.id == workflow_run.c.run_id)
    return run.select().select_from(source).where(workflow_run.c.workflow_id == workflow_id)


def newer(tx: Transaction, above: Mapping[str, int]) -> dict[int, str]:
    """Ids of runs of these workflows above the id given for each, and whose they are."""
    types = {"id": workflow_run.c.workflow_id.type, "above": workflow_run.c.run_id.type}
    rows = tx.dialect.recordset("wanted", types)
    is_newer = (workflow_run.c.workflow_id == rows.c.id) & (workflow_run.c.run_id > rows.c.above)
    query = workflow_run.select().select_from(rows.join(workflow_run, is_newer))
    return {row.run_id: row.workflow_id for row in tx.execute(query, {"wanted": document(above.items())})}


def last_ends(tx: Transaction, run_ids: Iterable[int], until: datetime) -> dict[int, int]:
    """For each of the runs that had ended by `until`, the number of the last event that ended it."""
    query = event.select().where(
        tx.dialect.is_any(event.c.run_id, "ids"), event.c.kind.in_(_ENDS), event.c.at <= until
    )
    found: dict[int, int] = {}
    for row in tx.execute(query, {"ids": tx.dialect.array(sorted(run_ids))}):
        found[row.run_id] = max(row.number, found.get(row.run_id, 0))
    return found


def end_times(tx: Transaction, run_ids: Iterable[int]) -> dict[int, datetime]:
    """When the events that ended these runs last were written: somewhat later than the runs' own times of
    their ends, where a transaction asks for the time more than once. Then no other one was between."""
    query = event.select().where(tx.dialect.is_any(event.c.run_id, "ids"), event.c.kind.in_(_ENDS))
    found: dict[int, datetime] = {}
    for row in tx.execute(query, {"ids": tx.dialect.array(sorted(run_ids))}):
        found[row.run_id] = max(row.at, found.get(row.run_id, row.at))
    return found


def is_end(told: Told) -> bool:
    return told.event.kind in _ENDS


# --- events


def events(tx: Transaction, rows: Mapping[int, Run], spans: Mapping[int, Span]) -> list[Told]:
    """Events of several runs, those of each in order; `rows` are the runs."""
    wanted = [(run_id, span.above, span.upto) for run_id, span in sorted(spans.items())]
    types = {"id": event.c.run_id.type, **dict.fromkeys(("above", "upto"), event.c.number.type)}
    span = tx.dialect.recordset("wanted", types)
    is_wanted = (event.c.run_id == span.c.id) & event.c.number.between(span.c.above + 1, span.c.upto)
    of_task = (task_state.c.task_id == event.c.task_id) & event.c.kind.in_(_EXPLAINED)
    of_attempt = (
        (attempt.c.task_id == event.c.task_id)
        & (attempt.c.number == event.c.attempt)
        & (event.c.kind == Move.FAIL)
    )
    source = (
        span.join(event, is_wanted)
        .outerjoin(task, task.c.id == event.c.task_id)
        .outerjoin(task_state, of_task)
        .outerjoin(attempt, of_attempt)
    )
    more = (task.c.name.label("task_name"), task_state.c.reason, attempt.c.error.label("failure"))
    query = event.select().add_columns(*more).select_from(source)
    found = sorted(tx.execute(query, {"wanted": document(wanted)}), key=lambda row: (row.run_id, row.number))
    return _told(tx, rows, found)


def _told(tx: Transaction, rows: Mapping[int, Run], found: Sequence[Any]) -> list[Told]:
    states: dict[int, RunState] = {}
    answer = []
    for row in found:
        of_run = rows[row.run_id]
        if row.task_id is None:
            if row.kind in _STATES:
                states[row.run_id] = _state(row, of_run)
            elif row.run_id not in states:
                states[row.run_id] = _state_before(tx, of_run, row.number)
        happened = Event(
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
        state = None if row.task_id is not None else states[row.run_id]
        failure = row.failure or {}
        answer.append(Told(happened, state, _error(tx, row), failure.get("code") == "timeout"))
    return answer


def _state(row: Any, of_run: Run) -> RunState:
    state = _STATES[row.kind]
    if state is not None:
        return state
    has_started = of_run.started_at is not None and of_run.started_at <= row.at
    return RunState.RUNNING if has_started else RunState.PENDING


def _state_before(tx: Transaction, of_run: Run, number: int) -> RunState:
    """The state that an event without a change of state leaves."""
    query = (
        event.select()
        .where(event.c.run_id == of_run.id, event.c.number < number, event.c.kind.in_(list(_STATES)))
        .order_by(event.c.number.desc())
        .limit(1)
    )
    row = tx.execute(query).first()
    return RunState.PENDING if row is None else _state(row, of_run)


def _error(tx: Transaction, row: Any) -> str | None:
    detail = row.detail if isinstance(row.detail, dict) else {}
    if row.kind in (f"run.{RunState.FAILED}", f"run.{RunState.CANCELLED}"):
        found = get_run(tx, row.run_id)
        return None if found is None else found.error
    text = detail.get("error") or detail.get("reason") or row.reason
    return None if text is None else str(text)


# --- together


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a run, and its row as it was when they were read."""

    run: Run
    events: Sequence[Told]


def page(tx: Transaction, run_id: int, span: Span) -> Page | None:
    """Events of one run; None if there is no such run."""
    found = runs(tx, [run_id])
    if run_id not in found:
        return None
    upto = min(span.upto, found[run_id].events)
    told = events(tx, found, {run_id: Span(span.above, upto)}) if upto > span.above else []
    return Page(found[run_id], told)
