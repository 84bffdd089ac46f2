"""Streaming tasks on a real worker: how far they have come is kept, whoever reads on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from engine.errors import Conflict, LeaseLost, NotFound, Overloaded
from engine.executors.base import ExecutorSettings
from engine.executors.realtime import RealtimeExecutor
from engine.executors.registry import ExecutorRegistry
from engine.functions.context import Context
from engine.functions.registry import FunctionRegistry
from engine.model.realtime import (
    Backpressure,
    Endpoint,
    Pressure,
    Protocol,
    RealtimeMode,
    RealtimeTask,
    Reconnect,
    Subscription,
)
from engine.model.workflow_graph import graph_of
from engine.model.workflows import Mode, Workflow
from engine.operations import runs, stream_state, submits, tasks
from engine.store.database import Database
from engine.streams.events import StreamState
from engine.streams.ports import Batch
from engine.worker.service import Worker
from tests.factories import do, request, rows, session_async
from tests.worker.bench import QUICK, ended, outcomes, until

pytestmark = pytest.mark.anyio

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
    services = options.pop("services", None)
    settings = ExecutorSettings(allow_private_network=options.pop("allow_private_network", True))
    executor = RealtimeExecutor(FunctionRegistry(functions), services=services, settings=settings)
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


# --- going on


async def test_a_stream_runs_until_it_is_cancelled(database: Database) -> None:
    got: list[int] = []

    async def take(data: list[int]) -> int:
        got.extend(data)
        return len(data)

    async with working(database, numbers(25), take):
        task = streaming(function="take", collector="numbers", batch_size=10)
        run_id, task_id = await submit(database, task)
        row = await processed(database, task_id, 25)
        assert (row.offset, row.sequence, row.batches) == (25, 25, 3)
        assert (await runs.get(database, run_id)).state == "running"
        await runs.cancel(database, run_id)
        assert (await ended(database, task_id)).state == "cancelled"
        assert (await runs.get(database, run_id)).state == "cancelled"
    assert got == list(range(1, 26))
    assert await outcomes(database, task_id) == ["cancelled"]
    kinds = await kinds_of(database, run_id)
    assert kinds == ["task.started", "connection.established", "task.stopped"]
    found = await stream_state.batches(database, task_id)
    assert [(each.number, each.size, each.result) for each in reversed(found)] == [
        (1, 10, 10),
        (2, 10, 10),
        (3, 5, 5),
    ]


async def test_another_worker_goes_on_behind_the_last_batch(database: Database) -> None:
    got: list[int] = []

    async def take(data: list[int]) -> None:
        got.extend(data)

    task = streaming(function="take", collector="numbers", batch_size=5)
    async with working(database, numbers(10), take):
        run_id, task_id = await submit(database, task)
        await processed(database, task_id, 10)
    async with working(database, numbers(20), take):
        row = await processed(database, task_id, 20)
        await runs.cancel(database, run_id)
        await ended(database, task_id)
    assert (got, row.processed) == (list(range(1, 21)), 20)
    assert await outcomes(database, task_id) == ["released", "cancelled"]


async def test_what_is_in_the_buffer_is_handled_when_the_run_is_cancelled(database: Database) -> None:
    got: list[int] = []
    read = asyncio.Event()

    async def take(data: list[int]) -> None:
        got.extend(data)

    async def three() -> AsyncIterator[int]:
        for number in (1, 2, 3):
            yield number
        read.set()
        await asyncio.Event().wait()

    async with working(database, three, take):
        task = streaming(function="take", collector="three", batch_size=1_000, flush_interval_ms=600_000)
        run_id, task_id = await submit(database, task)
        await asyncio.wait_for(read.wait(), 20)
        await runs.cancel(database, run_id)
        assert (await ended(database, task_id)).state == "cancelled"
    assert got == [1, 2, 3]


async def test_a_source_that_ends_ends_the_task(database: Database) -> None:
    async def take(data: list[int]) -> None: ...

    async with working(database, numbers(7, forever=False), take):
        task = streaming(mode=RealtimeMode.ONE_SHOT, function="take", collector="numbers")
        _, task_id = await submit(database, task)
        done = await ended(database, task_id)
    assert done.state == "succeeded" and done.last is not None
    assert done.last.result["processed_events"] == 7
    assert done.progress["state"] == "stopped"


async def test_a_pause_of_the_run_stops_the_stream(database: Database) -> None:
    got: list[int] = []

    async def take(data: list[int]) -> None:
        got.extend(data)

    async def ticks(offset: int | None = None) -> AsyncIterator[int]:
        number = offset or 0
        while True:
            number += 1
            yield number
            await asyncio.sleep(0.005)

    async with working(database, ticks, take):
        run_id, task_id = await submit(database, streaming(function="take", collector="ticks", batch_size=1))
        await processed(database, task_id, 3)
        await runs.hold(database, run_id)
        await until(lambda: _has(database, run_id, "task.paused"))
        before = len(got)
        await until(lambda: _has_progress(database, task_id, "paused"))
        assert len(got) == before
        await runs.resume(database, run_id)
        await until(lambda: len(got) > before + 3)
        assert got == list(range(1, len(got) + 1))
        assert await _has(database, run_id, "task.resumed")
        await runs.cancel(database, run_id)
        await ended(database, task_id)


async def _has(database: Database, run_id: int, kind: str) -> bool:
    return kind in await kinds_of(database, run_id)


async def _has_progress(database: Database, task_id: int, state: str) -> bool:
    return ((await tasks.get(database, task_id)).progress or {}).get("state") == state


# --- failures


async def test_a_batch_that_fails_is_tried_again_and_then_counted(database: Database) -> None:
    tries: list[list[int]] = []
    sorry: list[Any] = []

    async def take(data: list[int]) -> None:
        tries.append(data)
        if 2 in data:
            raise ValueError("two")

    async def apologise(error: str, data: list[int]) -> None:
        sorry.append((error, data))

    async with working(database, numbers(3, forever=False), take, apologise):
        task = streaming(
            mode=RealtimeMode.ONE_SHOT,
            function="take",
            collector="numbers",
            batch_size=2,
            retry_count=1,
            error_handler="apologise",
        )
        run_id, task_id = await submit(database, task)
        done = await ended(database, task_id)
    assert done.state == "succeeded"
    assert tries == [[1, 2], [1, 2], [3]]
    assert sorry == [("ValueError: two", [1, 2])]
    row = await stream_of(database, task_id)
    assert (row.processed, row.failed, row.offset) == (1, 2, 3)
    assert [kind for kind in await kinds_of(database, run_id) if kind.startswith("error.")] == [
        "error.occurred",
        "error.recovered",
    ]


async def test_a_source_that_is_lost_too_often_fails_the_task(database: Database) -> None:
    async def broken() -> AsyncIterator[int]:
        raise ConnectionError("gone")
        yield 1

    async def take(data: list[int]) -> None: ...

    async with working(database, broken, take):
        task = streaming(function="take", collector="broken", reconnect=Reconnect(max_attempts=2, first_ms=5))
        _, task_id = await submit(database, task)
        failed = await ended(database, task_id)
    assert failed.state == "failed" and failed.last is not None and failed.last.error is not None
    assert failed.last.error["code"] == "source_lost"
    assert "source broken: ConnectionError: gone" in failed.last.error["message"]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"function": "take"}, "has no source"),
        ({"function": "take", "collector": "nothing"}, 'unknown collector "nothing"'),
        (
            {"function": "take", "endpoint": Endpoint("nowhere", Protocol.TCP)},
            "endpoint.url: expected tcp://host:port",
        ),
        ({"function": "take", "collector": "listen"}, "params.source.url: Field required"),
    ],
)
async def test_what_can_never_work_fails_for_good(
    database: Database, task: dict[str, Any], message: str
) -> None:
    async def take(data: list[int]) -> None: ...

    async with working(database, take):
        _, task_id = await submit(database, streaming(**task, retry_count=3))
        failed = await ended(database, task_id)
    assert (failed.state, failed.attempt) == ("failed", 1)
    assert failed.last is not None and failed.last.error is not None
    assert message in failed.last.error["message"]


async def test_a_lost_lease_commits_nothing(database: Database) -> None:
    _, task_id = await submit(database, streaming(function="take", collector="numbers"))
    worker = await session_async(database)
    [lease] = await tasks.claim(database, request(worker, kinds=("realtime",)), actor="worker")
    await stream_state.open(database, lease)
    batch = Batch(1, 1, 5, 5, 0, 0, 5)
    assert not await stream_state.commit(database, lease, batch, StreamState.RUNNING)
    assert not await stream_state.commit(database, lease, batch, StreamState.RUNNING)  # answer lost, repeated
    late = lease._replace(token="another")
    for write in (
        stream_state.open(database, late),
        stream_state.keep(database, late, ["x"]),
        stream_state.commit(database, late, replace(batch, number=2, last=9), StreamState.RUNNING),
        stream_state.tell(database, late, []),
    ):
        with pytest.raises(LeaseLost):
            await write
    row = await stream_of(database, task_id)
    assert (row.processed, row.batches, row.sequence, row.received) == (5, 1, 5, 5)


# --- sources that cannot be replayed


async def test_messages_of_a_web_socket_are_stored_and_a_gap_is_told(database: Database) -> None:
    connections = 0

    async def talk(connection: ServerConnection) -> None:
        nonlocal connections
        connections += 1
        await connection.send(f"message {connections}")
        if connections > 1:
            await connection.wait_closed()

    got: list[str] = []

    async def take(data: list[str]) -> None:
        got.extend(data)

    async with serve(talk, "127.0.0.1", 0) as server, working(database, take):
        port = next(iter(server.sockets)).getsockname()[1]
        endpoint = Endpoint(f"ws://127.0.0.1:{port}", Protocol.WS)
        run_id, task_id = await submit(database, streaming(function="take", endpoint=endpoint))
        row = await processed(database, task_id, 2)
        await runs.cancel(database, run_id)
        await ended(database, task_id)
    assert got == ["message 1", "message 2"]
    assert row.gaps == 1 and rows(database, "SELECT 1 FROM stream_item") == []
    assert (await kinds_of(database, run_id))[:5] == [
        "task.started",
        "connection.established",
        "connection.lost",
        "connection.reconnecting",
        "connection.restored",
    ]


async def test_sources_keep_to_the_public_network(database: Database) -> None:
    async def take(data: list[str]) -> None: ...

    async with working(database, take, allow_private_network=False):
        task = streaming(
            function="take",
            endpoint=Endpoint("tcp://127.0.0.1:1", Protocol.TCP),
            reconnect=Reconnect(enabled=False),
        )
        _, task_id = await submit(database, task)
        failed = await ended(database, task_id)
    assert failed.last is not None and failed.last.error is not None
    assert "127.0.0.1 is not a public address" in failed.last.error["message"]


# --- event-driven tasks


def listening(**fields: Any) -> RealtimeTask:
    return streaming(mode=RealtimeMode.EVENT_DRIVEN, **fields)


async def test_published_events_reach_those_who_subscribe(database: Database) -> None:
    told: list[Any] = []

    async def on_order(data: Any) -> None:
        told.append(data)

    task = listening(subscriptions=[Subscription("order", "on_order", filter="payload.total > 10")])
    run_id, task_id = await submit(database, task)
    for total in (5, 15, 25):  # before any worker is there
        published = await stream_state.publish(database, run_id, "order", {"total": total})
        assert published.tasks == ["feed"]
    with pytest.raises(Conflict, match="takes events of type 'odrer' .they take: data.arrived, order."):
        await stream_state.publish(database, run_id, "odrer")
    async with working(database, on_order):
        row = await processed(database, task_id, 3)
        await runs.cancel(database, run_id)
        await ended(database, task_id)
    assert told == [{"total": 15}, {"total": 25}]
    assert (row.sequence, row.received) == (3, 3)
    with pytest.raises(Conflict, match="nobody takes events any more"):
        await stream_state.publish(database, run_id, "order")
    with pytest.raises(NotFound):
        await stream_state.publish(database, 999, "order")


async def test_a_function_publishes_to_its_own_run(database: Database) -> None:
    got: list[Any] = []

    async def take(ctx: Context) -> list[str]:
        return await ctx.publish("number", {"values": ctx.params["data"]})

    async def note(data: list[Any]) -> None:
        got.extend(data)

    workflow = Workflow(
        "w",
        mode=Mode.STREAMING,
        realtime_tasks=[
            replace(streaming(function="take", collector="numbers"), name="source"),
            replace(listening(function="note"), name="sink"),
        ],
    )
    async with working(database, numbers(2), take, note):
        accepted = await submits.submit(database, graph_of(workflow))
        await processed(database, accepted.task_ids["sink"], 1)
        await runs.cancel(database, accepted.run_id)
        for task_id in accepted.task_ids.values():
            await ended(database, task_id)
    assert got == [{"values": [1, 2]}]
    [batch] = await stream_state.batches(database, accepted.task_ids["source"])
    assert batch.result == ["sink"]


async def test_events_beyond_the_buffer_are_refused_or_dropped(database: Database) -> None:
    run_id, _ = await submit(database, listening(function="take", buffer_size=2, batch_size=1))
    for _ in range(2):
        await stream_state.publish(database, run_id, "any")
    with pytest.raises(Overloaded, match="2 events waiting"):
        await stream_state.publish(database, run_id, "any")
    pressure = Backpressure(0.8, Pressure.DROP)
    dropping = listening(function="take", buffer_size=1, batch_size=1, backpressure=pressure)
    run_id, task_id = await submit(database, dropping)
    await stream_state.publish(database, run_id, "any")
    published = await stream_state.publish(database, run_id, "any")
    assert (published.tasks, published.dropped) == ([], ["feed"])
    assert (await stream_of(database, task_id)).dropped == 1


def test_removing_a_run_removes_its_streams(database: Database) -> None:
    run_id, _ = do(submit(database, listening(function="take")))
    do(stream_state.publish(database, run_id, "any"))
    do(runs.cancel(database, run_id))
    do(runs.delete(database, run_id))
    for table in ("stream", "stream_item", "stream_batch"):
        assert rows(database, f"SELECT 1 FROM {table}") == []
