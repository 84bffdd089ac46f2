"""Streaming tasks for tests: submitted, worked at, looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from engine.errors import NotFound
from engine.executors.base import ExecutorSettings
from engine.executors.realtime import RealtimeExecutor
from engine.executors.registry import ExecutorRegistry
from engine.functions.registry import FunctionRegistry
from engine.model.realtime import (
    RealtimeMode,
    RealtimeTask,
    Reconnect,
)
from engine.model.workflow_graph import graph_of
from engine.model.workflows import Mode, Workflow
from engine.operations import runs, stream_state, submits
from engine.store.database import Database
from engine.worker.service import Worker
from tests.worker.bench import QUICK, until

FAST = Reconnect(first_ms=10, max_ms=10, jitter=0.0)


def streaming(**fields: Any) -> RealtimeTask:
    given = {"mode": RealtimeMode.CONTINUOUS, "flush_interval_ms": 20, "reconnect": FAST, **fields}
    return RealtimeTask("feed", **given)


async def submit(database: Database, task: RealtimeTask) -> tuple[int, int]:
    """A run of this one task: (run, task)."""
    workflow = Workflow("w", mode=Mode.STREAMING, realtime_tasks=[task])
    accepted = await submits.submit(database, graph_of(workflow))
    [task_id] = accepted.task_ids.values()
    return accepted.run_id, task_id


@asynccontextmanager
async def working(database: Database, *functions: Any, **options: Any) -> AsyncIterator[Worker]:
    """A worker that performs streaming tasks with these functions."""
    services, is_alone = options.pop("services", None), options.pop("is_alone", True)
    settings = ExecutorSettings(allow_private_network=options.pop("allow_private_network", True))
    executor = RealtimeExecutor(
        FunctionRegistry(functions), services=services, settings=settings, is_alone=is_alone
    )
    registry = ExecutorRegistry.from_executors([executor])
    async with Worker(database, registry, replace(QUICK, **{"grace_seconds": 1.0, **options})) as worker:
        try:
            yield worker
        finally:
            await executor.close()


async def kinds_of(database: Database, run_id: int) -> list[str]:
    found = await runs.events(database, run_id, limit=10_000)
    return [event.kind.removeprefix("stream.") for event in found if event.kind.startswith("stream.")]


async def stream_of(database: Database, task_id: int) -> Any:
    return await stream_state.get(database, task_id)


async def processed(database: Database, task_id: int, count: int) -> Any:
    """The stream's row, once so many items are dealt with."""

    async def is_so_far() -> Any:
        try:
            row = await stream_of(database, task_id)
        except NotFound:
            return None
        return row if row.processed + row.failed >= count else None

    return await until(is_so_far)


def numbers(most: int, *, forever: bool = True) -> Any:
    async def numbers(offset: int | None = None) -> AsyncIterator[int]:
        for number in range((offset or 0) + 1, most + 1):
            yield number
        if forever:
            await asyncio.Event().wait()

    return numbers
