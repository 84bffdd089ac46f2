"""Between schedules and their JSON: what is asked for, what there is, what comes next. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET

from engine.api.workflows.wire import (
    NextTime,
    NextTimes,
    ScheduleChangeIn,
    ScheduleIn,
    ScheduleOut,
    Schedules,
)
from engine.errors import InvalidInput
from engine.model.cron import Cron
from engine.model.schedules import ScheduleSpec
from engine.model.zones import zone_named
from engine.store.schedules import Schedule


def spec_of(wanted: ScheduleIn) -> ScheduleSpec:
    """Raises `InvalidInput`."""
    given = msgspec.structs.asdict(wanted)
    del given["workflow_id"]
    return ScheduleSpec(**given)


def changes_of(wanted: ScheduleChangeIn) -> tuple[dict[str, Any], bool | None]:
    """Fields of `ScheduleSpec` by name, and whether it is to be paused, None if nothing is said."""
    given = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    is_enabled = given.pop("is_enabled", None)
    return given, None if is_enabled is None else not is_enabled


def schedule_of(found: Schedule) -> ScheduleOut:
    return ScheduleOut(
        id=found.id,
        workflow_id=found.workflow_id,
        name=found.name,
        expression=found.expression,
        explanation=_explanation(found),
        zone=found.zone,
        params=found.params,
        overlap=found.overlap,
        catch_up=found.catch_up,
        catch_up_limit=found.catch_up_limit,
        is_enabled=not found.is_paused,
        next_at=found.next_at,
        last_at=found.last_at,
        queued_at=found.queued_at,
        error=found.error,
        actor=found.actor,
        created_at=found.created_at,
        changed_at=found.changed_at,
    )


def _explanation(found: Schedule) -> str | None:
    with suppress(InvalidInput):  # a zone that this machine does not know (any more)
        return Cron.parse(found.expression, found.zone, found.anchor_at).explain()
    return None


def schedules_of(total: int, found: Sequence[Schedule], offset: int) -> Schedules:
    return Schedules(total, [schedule_of(each) for each in found], offset + len(found) < total)


def next_times_of(found: Schedule, times: Sequence[datetime]) -> NextTimes:
    zone = zone_named(found.zone)
    return NextTimes(
        found.id,
        found.name,
        found.zone,
        not found.is_paused,
        [NextTime(time, time.astimezone(zone)) for time in times],
    )
