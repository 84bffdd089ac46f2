"""Schedules: kept, paused, triggered; what happens when a time comes. Any number of processes may tick."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from engine.errors import (
    Conflict,
    EngineError,
    Fault,
    NotFound,
    ParamsError,
    StoreUnavailable,
    WorkflowError,
)
from engine.model.cron import Cron
from engine.model.json import JSON
from engine.model.records import SavedWorkflow
from engine.model.schedules import Due, Overlap, ScheduleSpec, due
from engine.model.workflow_graph import workflow_key
from engine.model.workflows import Workflow
from engine.operations import executions, runs
from engine.operations.executions import find
from engine.operations.submits import Accepted
from engine.store import schedules as store
from engine.store.database import Database, LostRace, Transaction
from engine.store.schedules import Firing, Schedule
from engine.telemetry import emit

ACTOR = "schedule"
_AT_ONCE = 20  # schedules looked at in one tick
_MAX_ERROR = 500


# --- keep


async def create(database: Database, workflow: str, spec: ScheduleSpec, *, actor: str = "local") -> Schedule:
    """Run a workflow, by id or name, at these times. Raises `NotFound`, `Conflict` if the name is taken."""
    return await database.run(_create, workflow, spec, actor=actor)


def _create(tx: Transaction, workflow: str, spec: ScheduleSpec) -> Schedule:
    saved, spec = find(tx, workflow), _zoned(tx, spec)
    _prepare(tx, saved.id, ACTOR, params=spec.params)  # it fails here rather than at night
    schedule_id, now = f"sch-{secrets.token_hex(6)}", store.now(tx)
    store.insert(tx, schedule_id, saved.id, spec, now, _cron(spec, now).next(now))
    return _get(tx, schedule_id)


async def update(database: Database, key: str, spec: ScheduleSpec, *, actor: str = "local") -> Schedule:
    """Replace what a schedule says. Times that have come and were not decided about are forgotten."""
    return await database.run(_update, key, spec, actor=actor)


def _update(tx: Transaction, key: str, spec: ScheduleSpec) -> Schedule:
    found, spec = _get(tx, key, locked=True), _zoned(tx, spec)
    if (spec.expression, spec.zone) == (found.expression, found.zone):
        store.update(tx, found.id, spec)
    else:
        now = store.now(tx)
        store.update(tx, found.id, spec, anchor_at=now, next_at=_cron(spec, now).next(now))
    return _get(tx, found.id)


async def change(
    database: Database,
    key: str,
    changes: Mapping[str, Any],
    *,
    is_paused: bool | None = None,
    actor: str = "local",
) -> Schedule:
    """Replace some fields of what a schedule says, by the names of `ScheduleSpec`; pause or resume it.

    All of that or nothing. Parameters are tried as `create` does.
    """
    return await database.run(_change, key, changes, is_paused, actor=actor)


def _change(tx: Transaction, key: str, changes: Mapping[str, Any], is_paused: bool | None) -> Schedule:
    found = _get(tx, key, locked=True)
    if changes:
        spec = replace(_spec(found), **changes)
        if "params" in changes:
            _prepare(tx, found.workflow_id, ACTOR, params=spec.params)
        _update(tx, found.id, spec)
    if is_paused is not None:
        (_pause if is_paused else _resume)(tx, found.id)
    return _get(tx, found.id)


def _spec(found: Schedule) -> ScheduleSpec:
    return ScheduleSpec(**{each.name: getattr(found, each.name) for each in fields(ScheduleSpec)})


async def pause(database: Database, key: str, *, actor: str = "local") -> Schedule:
    """After this returns it starts no run until it is resumed."""
    return await database.run(_pause, key, actor=actor)


def _pause(tx: Transaction, key: str) -> Schedule:
    found = _get(tx, key, locked=True)
    store.set_(tx, found.id, is_paused=True)
    return _get(tx, found.id)


async def resume(database: Database, key: str, *, actor: str = "local") -> Schedule:
    """Go on with the next time from now; those that passed during the pause do not fire."""
    return await database.run(_resume, key, actor=actor)


def _resume(tx: Transaction, key: str) -> Schedule:
    found = _get(tx, key, locked=True)
    if found.is_paused:
        now = store.now(tx)
        store.set_(
            tx, found.id, is_paused=False, queued_at=None, next_at=_cron(found, found.anchor_at).next(now)
        )
    return _get(tx, found.id)


async def delete(database: Database, key: str, *, actor: str = "local") -> str:
    """Returns its id. Runs that it started go on."""
    return await database.run(_delete, key, actor=actor)


def _delete(tx: Transaction, key: str) -> str:
    found = _get(tx, key, locked=True)
    store.delete(tx, [found.id])
    return found.id


def follow(tx: Transaction, saved: SavedWorkflow, workflow: Workflow) -> None:
    """Keep the schedule that a workflow's definition asks for, named like the workflow; forget it with it.

    Raises `WorkflowError` if none of its runs could start.
    """
    found = store.find(tx, own_id(saved.id), locked=True)
    if workflow.cron is None:
        if found is not None:
            store.delete(tx, [found.id])
        return
    _refuse_failing(tx, saved, workflow, None if found is None else found.params)
    spec = _zoned(tx, ScheduleSpec(saved.name, workflow.cron, workflow.timezone))
    if found is not None:
        kept = replace(
            spec, overlap=found.overlap, catch_up=found.catch_up, catch_up_limit=found.catch_up_limit
        )
        _update(tx, found.id, replace(kept, params=found.params))
    else:
        now = store.now(tx)
        store.insert(tx, own_id(saved.id), saved.id, spec, now, _cron(spec, now).next(now))


def _refuse_failing(tx: Transaction, saved: SavedWorkflow, workflow: Workflow, params: JSON) -> None:
    try:
        executions.bind(workflow, {}, workflow_key(saved.id), tx.run_defaults, stored=params or {})
    except ParamsError as error:
        advice = "give defaults, or leave cron out and make a schedule with params"
        told = "; ".join(str(error).splitlines())
        raise WorkflowError([Fault(("cron",), f"its runs would fail: {told} ({advice})")]) from None


def own_id(workflow_id: str) -> str:
    """The id of the schedule that comes with a workflow's definition."""
    return f"sch-{workflow_id}"


def forget(tx: Transaction, workflow_id: str) -> None:
    """Delete every schedule of a workflow."""
    _, found = store.list_schedules(tx, workflow_id=workflow_id, limit=100_000)
    store.delete(tx, [item.id for item in found])


# --- look


async def get(database: Database, key: str) -> Schedule:
    """By id or name."""
    return await database.read(_get, key)


def _get(tx: Transaction, key: str, *, locked: bool = False) -> Schedule:
    found = store.find(tx, key, locked=locked)
    if found is None:
        raise NotFound(f"schedule not found: {key}")
    return found


async def list_schedules(
    database: Database,
    *,
    workflow: str | None = None,
    is_paused: bool | None = None,
    limit: int = 100,
    offset: int = 0,
) -> tuple[int, list[Schedule]]:
    """How many match, and some of them by name. Raises `NotFound` for an unknown workflow."""

    def read(tx: Transaction) -> tuple[int, list[Schedule]]:
        workflow_id = None if workflow is None else find(tx, workflow).id
        return store.list_schedules(
            tx, workflow_id=workflow_id, is_paused=is_paused, limit=limit, offset=offset
        )

    return await database.read(read)


async def upcoming(database: Database, key: str, count: int = 10) -> list[datetime]:
    """The next nominal times, in UTC. Of a paused schedule those that would come if it were resumed now."""
    return (await next_times(database, key, count))[1]


async def next_times(database: Database, key: str, count: int) -> tuple[Schedule, list[datetime]]:
    """A schedule, and its `upcoming` times."""
    found, now = await database.read(lambda tx: (_get(tx, key), store.now(tx)))
    cron = _cron(found, found.anchor_at)
    if found.is_paused:
        return found, cron.upcoming(now, count)
    if found.next_at is None:
        return found, []
    return found, [found.next_at, *cron.upcoming(found.next_at, count - 1)]


async def firings(database: Database, key: str, *, limit: int = 100) -> list[Firing]:
    """What was decided about its nominal times, newest first."""
    return await database.read(lambda tx: store.list_firings(tx, _get(tx, key).id, limit=limit))


def _cron(spec: ScheduleSpec | Schedule, anchor: datetime) -> Cron:
    assert spec.zone is not None  # `_zoned`
    return Cron.parse(spec.expression, spec.zone, anchor)


def _zoned(tx: Transaction, spec: ScheduleSpec) -> ScheduleSpec:
    """With the zone that counts if it names none: that of the process which keeps it, once and for all."""
    return spec if spec.zone else replace(spec, zone=tx.run_defaults.timezone)


# --- fire


async def trigger(database: Database, key: str, *, actor: str = "local") -> Accepted:
    """Start a run now, whatever the schedule's times, pause and overlap say."""
    return await database.run(_trigger, key, actor=actor)


def _trigger(tx: Transaction, key: str) -> Accepted:
    found = _get(tx, key, locked=True)
    start = _prepare(tx, found.workflow_id, tx.actor, stored=found.params)
    accepted = executions.start_within(tx, start)
    moment = store.now(tx)
    if not store.decide(tx, found.id, moment, "started", f"triggered by {tx.actor}"):
        raise LostRace  # in this very microsecond
    store.revise(tx, found.id, moment, "started", run_id=accepted.run_id, detail=f"triggered by {tx.actor}")
    return accepted


@dataclass(frozen=True, slots=True)
class Tick:
    started: int  # runs
    next_in: float | None  # seconds until the next time of any schedule


async def tick(database: Database) -> Tick:
    """Decide about every nominal time that has come. What one scheduler is at, the others pass over."""
    started = 0
    for schedule_id in await database.read(store.to_do, _AT_ONCE):
        try:
            started += await database.run(_fire, schedule_id, actor=ACTOR)
        except StoreUnavailable:
            raise
        except Exception as error:  # of one schedule: the others go on
            emit("schedule.failed", level="error", schedule=schedule_id, error=repr(error))
    return Tick(started, await database.read(store.seconds_until_next))


def _fire(tx: Transaction, schedule_id: str) -> int:
    found = store.take(tx, schedule_id)
    if found is None:
        return 0
    started, now = 0, store.now(tx)
    if found.queued_at is not None and not store.open_runs(tx, found.id):
        started += _start(tx, found, found.queued_at)
        found = replace(found, queued_at=None)
    verdict = Due([], None, found.next_at)
    if found.next_at is not None and found.next_at <= now:
        cron = _cron(found, found.anchor_at)
        verdict = due(cron, found.next_at, now, found.catch_up, found.catch_up_limit)
    if verdict.missed is not None:
        store.decide(
            tx, found.id, verdict.missed, "missed", "and those before it that were not decided about"
        )
    for nominal in verdict.fires:
        started, found = _fire_one(tx, found, nominal, started)
    last = verdict.fires[-1] if verdict.fires else found.last_at
    store.set_(tx, found.id, next_at=verdict.next, last_at=last, queued_at=found.queued_at)
    return started


def _fire_one(tx: Transaction, found: Schedule, nominal: datetime, started: int) -> tuple[int, Schedule]:
    busy = [] if found.overlap is Overlap.ALLOW else store.open_runs(tx, found.id)
    if not store.decide(tx, found.id, nominal, "started"):
        return started, found
    if busy and found.overlap is Overlap.SKIP:
        store.revise(tx, found.id, nominal, "skipped", detail=f"run {busy[-1]} has not ended")
        return started, found
    if busy and found.overlap is Overlap.QUEUE_ONE:
        if found.queued_at is not None:
            store.revise(tx, found.id, found.queued_at, "replaced", detail=f"by {nominal.isoformat()}")
        store.revise(tx, found.id, nominal, "queued", detail=f"run {busy[-1]} has not ended")
        return started, replace(found, queued_at=nominal)
    for run_id in busy:
        with suppress(Conflict):  # it has ended just now
            runs.cancel_within(tx, run_id, f"the next time of schedule {found.name!r} came")
    return started + _start(tx, found, nominal), found


def _start(tx: Transaction, found: Schedule, nominal: datetime) -> int:
    """Start the run of a nominal time; what keeps it from starting is noted with both."""
    try:
        start = _prepare(tx, found.workflow_id, ACTOR, stored=found.params)
    except EngineError as error:
        store.revise(tx, found.id, nominal, "failed", detail=str(error)[:_MAX_ERROR])
        store.set_(tx, found.id, error=str(error)[:_MAX_ERROR])
        return 0
    accepted = executions.start_within(tx, start)
    store.revise(tx, found.id, nominal, "started", run_id=accepted.run_id)
    store.set_(tx, found.id, error=None)
    return 1


def _prepare(
    tx: Transaction,
    workflow_id: str,
    actor: str,
    *,
    params: JSON = None,
    stored: JSON = None,
) -> executions.Start:
    """With `params` that somebody gives now, or those `stored` with a schedule."""
    found = executions.to_start(tx, workflow_id)
    return executions.prepare(found, params or {}, stored=stored or {}, actor=actor, defaults=tx.run_defaults)
