"""Streaming workflows in an embedded engine, as programs write them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine import Conflict, Engine, RealtimeTaskBuilder, WorkflowBuilder, WorkflowError
from engine.model.realtime import RealtimeMode, RealtimeTask, RealtimeType
from engine.model.workflows import Mode, Workflow
from tests.worker.bench import until

pytestmark = pytest.mark.anyio


async def test_a_stream_without_a_source_is_not_saved(database_url: str) -> None:
    """Where the functions are known; it was saved, and failed when it ran."""

    async def ticks() -> AsyncIterator[int]:
        yield 1

    def store(data: Any) -> None: ...

    def stream(function: str, **fields: Any) -> Workflow:
        task = RealtimeTask("k", function=function, mode=RealtimeMode.CONTINUOUS, **fields)
        return Workflow("w", mode=Mode.STREAMING, realtime_tasks=[task])

    async with Engine(database_url, functions=[ticks, store]) as engine:
        with pytest.raises(WorkflowError) as refused:
            await engine.save(stream("store"))
        assert str(refused.value).endswith(
            "realtime_tasks[0]: task 'k' has no source: give it an endpoint, a collector, a function that "
            "yields, or the event-driven mode"
        )
        with pytest.raises(WorkflowError, match='unknown function "other"') as refused:
            await engine.save(stream("other"))
        assert len(refused.value.faults) == 1
        with pytest.raises(WorkflowError, match=r"retry_count: 5000 is outside 0 to 999") as refused:
            await engine.save(stream("store", retry_count=5_000))
        assert len(refused.value.faults) == 1
        await engine.save(stream("ticks"))
        await engine.save(stream("store", collector="ticks"))
        await engine.save(stream("store", type=RealtimeType.SCHEDULED_POLLER))


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
