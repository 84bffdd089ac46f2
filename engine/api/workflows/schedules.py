"""Routes of `/api/v1/schedules`: list, create, show, change, delete, trigger, next times."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath, FromQuery, QueryParameter

from engine.api.answers import EnvelopeBody
from engine.api.bodies import check_size, check_values, decode, read_small_body
from engine.api.documents import body_operation, refusals
from engine.api.edge import text_of_segment
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_translation import name_of
from engine.api.workflows.schedule_translation import (
    changes_of,
    next_times_of,
    schedule_of,
    schedules_of,
    spec_of,
)
from engine.api.workflows.wire import (
    Envelope,
    Message,
    NextTimes,
    ScheduleChangeIn,
    ScheduleIn,
    ScheduleOut,
    Schedules,
    Started,
    TriggerIn,
)
from engine.api.workflows.workflows import DEFAULT_LIMIT, Limit, Offset, ok
from engine.operations import schedules

_TAGS = ["Schedules"]
_create: msgspec.json.Decoder[ScheduleIn] = msgspec.json.Decoder(ScheduleIn)
_change: msgspec.json.Decoder[ScheduleChangeIn] = msgspec.json.Decoder(ScheduleChangeIn)

_nothing: msgspec.json.Decoder[TriggerIn] = msgspec.json.Decoder(TriggerIn)

Count = Annotated[int, QueryParameter(ge=1, le=100)]


@get(
    "/api/v1/schedules",
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="Schedules by name",
    tags=_TAGS,
)
async def list_schedules(
    request: ApiRequest,
    workflow_id: FromQuery[str | None] = None,
    is_enabled: FromQuery[bool | None] = None,
    limit: Limit = 0,
    offset: Offset = 0,
) -> Envelope[Schedules]:
    """`workflow_id` is the id or the name of a workflow."""
    total, found = await schedules.list_schedules(
        services_of(request).database,
        workflow=None if workflow_id is None else name_of(workflow_id, "workflow"),
        is_paused=None if is_enabled is None else not is_enabled,
        limit=limit or DEFAULT_LIMIT,
        offset=offset,
    )
    return ok(schedules_of(total, found, offset))


@post(
    "/api/v1/schedules",
    status_code=200,
    operation_class=body_operation("ScheduleIn"),
    responses=refusals(EnvelopeBody, 400, 404, 409, 413, 503),
    summary="Run a workflow at certain times",
    tags=_TAGS,
)
async def create_schedule(request: ApiRequest) -> Envelope[ScheduleOut]:
    """The parameters are tried: a schedule that could start nothing is refused."""
    body = await read_small_body(request)
    wanted = decode(_create, body)
    check_values("params", wanted.params)
    check_size("params", body, wanted.params)
    found = await schedules.create(
        services_of(request).database,
        name_of(wanted.workflow_id, "workflow"),
        spec_of(wanted),
        actor=actor_of(request),
    )
    return ok(schedule_of(found))


@get(
    "/api/v1/schedules/{schedule_id:str}",
    responses=refusals(EnvelopeBody, 404, 503),
    summary="One schedule",
    tags=_TAGS,
)
async def show_schedule(request: ApiRequest, schedule_id: FromPath[str]) -> Envelope[ScheduleOut]:
    """By id or name."""
    return ok(schedule_of(await schedules.get(services_of(request).database, _key(schedule_id))))


@patch(
    "/api/v1/schedules/{schedule_id:str}",
    operation_class=body_operation("ScheduleChangeIn"),
    responses=refusals(EnvelopeBody, 400, 404, 409, 413, 503),
    summary="Change, pause or resume a schedule",
    tags=_TAGS,
)
async def change_schedule(request: ApiRequest, schedule_id: FromPath[str]) -> Envelope[ScheduleOut]:
    """A schedule that is resumed goes on with the next time from now; so does one with another expression
    or zone."""
    body = await read_small_body(request)
    changes, is_paused = changes_of(decode(_change, body))
    check_values("params", changes.get("params"))
    check_size("params", body, changes.get("params"))
    found = await schedules.change(
        services_of(request).database,
        _key(schedule_id),
        changes,
        is_paused=is_paused,
        actor=actor_of(request),
    )
    return ok(schedule_of(found))


@delete(
    "/api/v1/schedules/{schedule_id:str}",
    status_code=200,
    responses=refusals(EnvelopeBody, 404, 503),
    summary="Delete a schedule",
    tags=_TAGS,
)
async def delete_schedule(request: ApiRequest, schedule_id: FromPath[str]) -> Envelope[Message]:
    """Instances that it started go on. That of a workflow's `cron` comes back with the next version."""
    database = services_of(request).database
    deleted = await schedules.delete(database, _key(schedule_id), actor=actor_of(request))
    return ok(Message("schedule deleted", deleted))


@post(
    "/api/v1/schedules/{schedule_id:str}/trigger",
    status_code=200,
    responses=refusals(EnvelopeBody, 400, 404, 409, 413, 503),
    summary="Start an instance now",
    tags=_TAGS,
)
async def trigger_schedule(request: ApiRequest, schedule_id: FromPath[str]) -> Envelope[Started]:
    """Whatever the schedule's times, its pause and the rule for overlap say; with its own parameters."""
    services = services_of(request)
    body = await read_small_body(request)
    if body.strip():
        decode(_nothing, body)
    await services.admission.check(1)
    accepted = await schedules.trigger(services.database, _key(schedule_id), actor=actor_of(request))
    return ok(Started(str(accepted.run_id), "instance started"))


@get(
    "/api/v1/schedules/{schedule_id:str}/next",
    responses=refusals(EnvelopeBody, 400, 404, 503),
    summary="When it fires next",
    tags=_TAGS,
)
async def next_times(
    request: ApiRequest, schedule_id: FromPath[str], count: Count = 10
) -> Envelope[NextTimes]:
    """Nominal times in UTC and with the offset of the schedule's zone."""
    found, times = await schedules.next_times(services_of(request).database, _key(schedule_id), count)
    return ok(next_times_of(found, times))


def _key(segment: str) -> str:
    return name_of(text_of_segment(segment), "schedule")


ROUTES = [
    list_schedules,
    create_schedule,
    show_schedule,
    change_schedule,
    delete_schedule,
    trigger_schedule,
    next_times,
]
