"""Streaming workflows in an embedded engine, as programs write them."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Conflict, Engine, RealtimeTaskBuilder, WorkflowBuilder
from tests.worker.bench import until

pytestmark = pytest.mark.anyio


async def test_what_a_program_publishes_reaches_its_function(database_url: str) -> None:
    got: list[Any] = []

    def on_order(data: Any) -> None:
        got.append(data["total"])

    task = (
        RealtimeTaskBuilder("orders")
        .with_event_driven_mode()
        .subscribe_event("order", "on_order")
        .with_flush_interval(0.02)
        .build()
    )
    workflow = WorkflowBuilder("listening").with_streaming_mode().with_realtime_task(task).build()
    async with Engine(database_url, functions=[on_order]) as engine:
        run_id = (await engine.execute(workflow)).run_id
        assert (await engine.publish(run_id, "order", {"total": 12})).tasks == ["orders"]
        await until(lambda: got == [12])
        with pytest.raises(Conflict, match="takes events of type"):
            await engine.publish(run_id, "parcel")
        await engine.cancel(run_id)
        assert (await engine.wait(run_id, timeout=30)).state == "cancelled"
