"""Events that are published to an instance, for its event-driven tasks."""

from __future__ import annotations

from typing import Any

import pytest

from engine.functions.registry import FunctionRegistry
from engine.operations import functions, runs
from tests.api.service import Service
from tests.api.test_workflows import data, execute, refused, upload
from tests.factories import rows

pytestmark = pytest.mark.anyio

LISTENING = """
workflows:
  definitions:
    - workflow_id: listening
      execution_mode: streaming
      realtime_tasks:
        - {task_id: feed, mode: event_driven, buffer_size: 1, batch_size: 1,
           subscriptions: [{event: order, func_key: on_order}]}
"""


def on_order(data: Any) -> None: ...


async def listening(service: Service) -> str:
    await functions.register(service.database, FunctionRegistry([on_order]).describe())
    await upload(service, LISTENING)
    return await execute(service, "listening")


async def test_an_event_is_stored_for_the_tasks_that_take_it(service: Service) -> None:
    path = f"/api/v1/instances/{await listening(service)}/events"
    event = {"type": "order", "payload": {"total": 12}}
    taken = await data(await service.client.post(path, json=event), 202)
    assert (taken["type"], taken["tasks"], taken["dropped"]) == ("order", ["feed"], [])
    assert len(rows(service.database, "SELECT 1 FROM stream_item")) == 1
    full = await service.client.post(path, json=event)
    assert "1 events waiting" in refused(full, 503) and full.headers["retry-after"] == "1"


async def test_events_that_nobody_takes_are_refused(service: Service) -> None:
    instance_id = await listening(service)
    path = f"/api/v1/instances/{instance_id}/events"
    assert "they take: data.arrived, order" in refused(
        await service.client.post(path, json={"type": "odrer"}), 409
    )
    refused(await service.client.post(path, json={"payload": 1}), 400)
    refused(await service.client.post(path, content=b"{"), 400)
    refused(await service.client.post("/api/v1/instances/999/events", json={"type": "order"}), 404)
    await runs.cancel(service.database, int(instance_id))
    assert "nobody takes events any more" in refused(
        await service.client.post(path, json={"type": "order"}), 409
    )
