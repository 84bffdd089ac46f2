"""Schedules, and what was decided about each of their nominal times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.errors import Conflict
from engine.model.json import JSON
from engine.model.schedules import CatchUp, Overlap, ScheduleSpec
from engine.store.database import Transaction
from engine.store.schema import firing, run, schedule
from engine.store.statement import moment_of

_LATELY = 1_000  # runs; with an overlap that is not allowed there is no more than one of them


@dataclass(frozen=True, slots=True)
class Schedule:
    """`next_at` is the next nominal time, None if it never fires again; `error` that of the last firing."""

    id: str
    workflow_id: str
    name: str
    expression: str
    zone: str
    params: JSON
    overlap: Overlap
    catch_up: CatchUp
    catch_up_limit: int
    is_paused: bool
    anchor_at: datetime
    next_at: datetime | None
    last_at: datetime | None
    queued_at: datetime | None
    error: str | None
    actor: str
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Firing:
    """What was decided about one nominal time."""

    schedule_id: str
    nominal_at: datetime
    outcome: str  # started, skipped, missed, queued, replaced, failed
    run_id: int | None
    detail: str | None
    at: datetime


def now(tx: Transaction) -> datetime:
    """The database's time: schedulers on machines whose clocks differ agree on it."""
    moment: datetime = tx.execute(sa.select(moment_of(tx.dialect, schedule.c.created_at))).scalar_one()
    return moment


# --- schedules


def insert(
    tx: Transaction,
    schedule_id: str,
    workflow_id: str,
    spec: ScheduleSpec,
    anchor: datetime,
    next_at: datetime | None,
) -> None:
    """Raises `Conflict` if there is a schedule of that name."""
    row = sa.insert(schedule).values(
        id=schedule_id,
        workflow_id=workflow_id,
        **_values(spec),
        anchor_at=anchor,
        next_at=next_at,
        actor=tx.actor,
        created_at=anchor,
        changed_at=anchor,
    )
    with _unique(tx, spec.name):
        tx.execute(row)


def _values(spec: ScheduleSpec) -> dict[str, Any]:
    names = ("name", "expression", "zone", "params", "overlap", "catch_up", "catch_up_limit")
    return {name: getattr(spec, name) for name in names}


@contextmanager
def _unique(tx: Transaction, name: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        if tx.dialect.is_duplicate(error):
            raise Conflict(f"there is a schedule {name!r} already") from None
        raise


def update(tx: Transaction, schedule_id: str, spec: ScheduleSpec, **others: Any) -> None:
    """Raises `Conflict` if another schedule has the name."""
    with _unique(tx, spec.name):
        set_(tx, schedule_id, **_values(spec), **others)


def set_(tx: Transaction, schedule_id: str, **values: Any) -> None:
    changed_at = moment_of(tx.dialect, schedule.c.changed_at)
    tx.execute(
        sa.update(schedule).where(schedule.c.id == schedule_id).values(**values, changed_at=changed_at)
    )


def find(tx: Transaction, key: str, *, locked: bool = False) -> Schedule | None:
    """By id, else by name."""
    for column in (schedule.c.id, schedule.c.name):
        query = sa.select(schedule).where(column == key)
        row = tx.execute(query.with_for_update() if locked else query).one_or_none()
        if row is not None:
            return _schedule(row)
    return None


def list_schedules(
    tx: Transaction,
    *,
    workflow_id: str | None = None,
    is_paused: bool | None = None,
    limit: int = 100,
    offset: int = 0,
) -> tuple[int, list[Schedule]]:
    """How many match, and some of them by name."""
    wanted = [] if workflow_id is None else [schedule.c.workflow_id == workflow_id]
    if is_paused is not None:
        wanted.append(schedule.c.is_paused if is_paused else ~schedule.c.is_paused)
    total = tx.execute(sa.select(sa.func.count()).select_from(schedule).where(*wanted)).scalar_one()
    query = sa.select(schedule).where(*wanted).order_by(schedule.c.name).limit(limit).offset(offset)
    return total, [_schedule(row) for row in tx.execute(query)]


def delete(tx: Transaction, schedule_ids: Iterable[str]) -> None:
    """With all that was decided about them; the runs stay."""
    for schedule_id in sorted(schedule_ids):
        tx.execute(sa.delete(firing).where(firing.c.schedule_id == schedule_id))
        tx.execute(sa.delete(schedule).where(schedule.c.id == schedule_id))


def _schedule(row: Any) -> Schedule:
    fields = {**row._mapping, "overlap": Overlap(row.overlap), "catch_up": CatchUp(row.catch_up)}
    return Schedule(**fields)


# --- firing


def to_do(tx: Transaction, limit: int) -> list[str]:
    """Ids of schedules whose time has come, or that have a time waiting; the most overdue first."""
    is_due = schedule.c.next_at <= moment_of(tx.dialect, schedule.c.next_at)
    query = (
        sa.select(schedule.c.id)
        .where(~schedule.c.is_paused, sa.or_(is_due, schedule.c.queued_at.is_not(None)))
        .order_by(schedule.c.next_at)
        .limit(limit)
    )
    return list(tx.execute(query).scalars())


def seconds_until_next(tx: Transaction) -> float | None:
    """Until the next nominal time of any schedule; None if none will come."""
    query = sa.select(sa.func.min(schedule.c.next_at)).where(~schedule.c.is_paused)
    next_at = tx.execute(query).scalar_one_or_none()
    return None if next_at is None else (next_at - now(tx)).total_seconds()


def take(tx: Transaction, schedule_id: str) -> Schedule | None:
    """Be the only scheduler that decides about a schedule; None if another one is at it."""
    query = sa.select(schedule).where(schedule.c.id == schedule_id, ~schedule.c.is_paused)
    row = tx.execute(query.with_for_update(skip_locked=True)).one_or_none()
    return None if row is None else _schedule(row)


def decide(
    tx: Transaction, schedule_id: str, nominal_at: datetime, outcome: str, detail: str | None = None
) -> bool:
    """Note what becomes of a nominal time; False if that was decided before."""
    insert_ = tx.dialect.insert(firing).values(
        schedule_id=schedule_id,
        nominal_at=nominal_at,
        outcome=outcome,
        detail=detail,
        at=moment_of(tx.dialect, firing.c.at),
    )
    answer = tx.execute(insert_.on_conflict_do_nothing().returning(firing.c.schedule_id))
    return answer.first() is not None


def revise(
    tx: Transaction,
    schedule_id: str,
    nominal_at: datetime,
    outcome: str,
    *,
    run_id: int | None = None,
    detail: str | None = None,
) -> None:
    mine = (firing.c.schedule_id == schedule_id, firing.c.nominal_at == nominal_at)
    tx.execute(sa.update(firing).where(*mine).values(outcome=outcome, run_id=run_id, detail=detail))


def open_runs(tx: Transaction, schedule_id: str) -> list[int]:
    """Of the runs that this schedule started lately, those that have not ended, oldest first."""
    lately = (
        sa.select(firing.c.run_id)
        .where(firing.c.schedule_id == schedule_id, firing.c.run_id.is_not(None))
        .order_by(firing.c.nominal_at.desc())
        .limit(_LATELY)
        .subquery("lately")
    )
    query = sa.select(run.c.id).join_from(lately, run, run.c.id == lately.c.run_id)
    return list(tx.execute(query.where(run.c.finished_at.is_(None)).order_by(run.c.id)).scalars())


def list_firings(tx: Transaction, schedule_id: str, *, limit: int = 100) -> list[Firing]:
    """Newest nominal time first."""
    query = (
        sa.select(firing)
        .where(firing.c.schedule_id == schedule_id)
        .order_by(firing.c.nominal_at.desc())
        .limit(limit)
    )
    return [Firing(**row._mapping) for row in tx.execute(query)]
