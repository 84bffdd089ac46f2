"""Route by which event-driven tasks of an instance are given events (contract section 5.10)."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import post
from litestar.params import FromPath

from engine.api.answers import EnvelopeBody
from engine.api.bodies import check_values, decode, read_small_body
from engine.api.documents import body_operation, refusals
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_translation import id_of
from engine.api.workflows.wire import Envelope
from engine.api.workflows.workflows import ok
from engine.operations import stream_state, workflows


class EventIn(msgspec.Struct, forbid_unknown_fields=True):
    """`type` is one that a task of the instance subscribes to, `payload` any JSON value."""

    type: str
    payload: Any = None


class EventTaken(msgspec.Struct):
    """`tasks` are the names of those that get the event, `dropped` of those that had no room for it."""

    instance_id: str
    event_id: str
    type: str
    tasks: list[str]
    dropped: list[str]


_event: msgspec.json.Decoder[EventIn] = msgspec.json.Decoder(EventIn)


@post(
    "/api/v1/instances/{instance_id:str}/events",
    status_code=202,
    operation_class=body_operation("EventIn"),
    responses=refusals(EnvelopeBody, 400, 404, 409, 413, 422, 503),
    summary="Publish an event to the event-driven tasks of an instance",
    tags=["Instances"],
)
async def publish_event(request: ApiRequest, instance_id: FromPath[str]) -> Envelope[EventTaken]:
    """It is stored until they have dealt with it."""
    database, number = services_of(request).database, id_of(instance_id, "instance")
    await workflows.get_run(database, number)
    event = decode(_event, await read_small_body(request))
    check_values("payload", event.type, event.payload)
    published = await stream_state.publish(
        database, number, event.type, event.payload, actor=actor_of(request)
    )
    taken = EventTaken(str(number), published.id, event.type, published.tasks, published.dropped)
    answer: Envelope[EventTaken] = ok(taken)
    return answer


ROUTES = [publish_event]
