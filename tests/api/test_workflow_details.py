"""What a workflow's details and its instances tell of schedules and of streaming tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.functions.registry import FunctionRegistry
from engine.operations import functions
from tests.api.service import Service
from tests.api.test_workflows import data, execute, upload
from tests.factories import write

pytestmark = pytest.mark.anyio

STREAMING = """
workflows:
  definitions:
    - workflow_id: feed
      execution_mode: streaming
      tasks:
        - {task_id: load, kind: noop}
      realtime_tasks:
        - {task_id: prices, mode: continuous, func_key: on_price, dependencies: [load], retry_count: 2,
           params: {token: s3cret}, endpoint: {url: "wss://me:s3cret@example.org/?key=s3cret", protocol: wss}}
        - {task_id: orders, mode: event_driven, description: "new orders",
           subscriptions: [{event: order, func_key: on_order}]}
"""
NIGHTLY = """
workflows:
  definitions:
    - workflow_id: nightly
      cron: "0 30 1 * * *"
      tasks: [{task_id: load, kind: noop}]
"""


def on_price(data: Any) -> None: ...


def on_order(data: Any) -> None: ...


async def detail(service: Service, workflow: str) -> Any:
    return await data(await service.client.get(f"/api/v1/workflows/{workflow}"))


async def streaming(service: Service) -> None:
    await functions.register(service.database, FunctionRegistry([on_price, on_order]).describe())
    await upload(service, STREAMING)


async def test_details_have_streaming_tasks_without_their_secrets(service: Service) -> None:
    await streaming(service)
    found = await detail(service, "feed")
    assert found["task_count"] == len(found["tasks"]) + len(found["realtime_tasks"])
    prices, orders = found["realtime_tasks"]
    assert prices == {
        "id": "prices",
        "name": "prices",
        "description": "",
        "dependencies": ["load"],
        "retry_count": 2,
        "mode": "continuous",
        "type": "data_collector",
        "function": "on_price",
        "protocol": "wss",
    }
    assert (orders["mode"], orders["description"]) == ("event_driven", "new orders")
    assert orders["subscriptions"] == [{"event": "order", "function": "on_order", "priority": 0}]
    assert found["dependencies"] == {"prices": ["load"]}
    assert "s3cret" not in json.dumps(found)


async def test_a_cron_that_is_paused_is_not_enabled(service: Service) -> None:
    assert (await upload(service, NIGHTLY))["cron_enabled"] is True

    async def both() -> tuple[bool, bool]:
        listed = await data(await service.client.get("/api/v1/workflows"))
        return (await detail(service, "nightly"))["cron_enabled"], listed["items"][0]["cron_enabled"]

    for is_enabled in (False, True):
        change = await service.client.patch("/api/v1/schedules/nightly", json={"is_enabled": is_enabled})
        await data(change)
        assert await both() == (is_enabled, is_enabled)
    await data(await service.client.post("/api/v1/workflows/nightly/disable"))
    assert await both() == (False, False)
    await data(await service.client.post("/api/v1/workflows/nightly/enable"))
    await data(await service.client.delete("/api/v1/schedules/nightly"))
    assert await both() == (False, False)


async def test_a_streaming_task_shows_how_its_stream_comes_along(service: Service) -> None:
    await streaming(service)
    path = f"/api/v1/instances/{await execute(service, 'feed')}/tasks"
    found = {task["task_name"]: task for task in await data(await service.client.get(path))}
    assert not any("stream" in task for task in found.values())
    for name, task in found.items():
        write(
            service.database,
            "INSERT INTO task_progress (task_id, attempt, at, document)"
            " SELECT id, 1, created_at, :document FROM task WHERE id = :id",
            id=int(task["id"]),
            document=json.dumps({"state": "paused", "total_events": len(name)}),
        )
    found = {task["task_name"]: task for task in await data(await service.client.get(path))}
    assert found["prices"]["stream"] == {"state": "paused", "total_events": 6}
    assert "stream" not in found["load"]
