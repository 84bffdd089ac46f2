"""Streaming tasks on a real worker: how far they have come is kept, whoever reads on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from websockets.asyncio.server import ServerConnection, serve

from engine.errors import LeaseLost
from engine.model.realtime import (
    Endpoint,
    Protocol,
    RealtimeMode,
    Reconnect,
)
from engine.operations import functions, runs, stream_state, tasks
from engine.store.database import Database
from engine.streams.events import StreamState
from engine.streams.ports import Batch
from tests.factories import request, rows, session_async
from tests.sdk.callers import libpq
from tests.worker.bench import ended, outcomes, until
from tests.worker.streams import kinds_of, numbers, processed, stream_of, streaming, submit, working

pytestmark = pytest.mark.anyio


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


async def test_a_worker_that_stops_handles_what_it_has_read_and_does_not_wait_for_more(
    database: Database,
) -> None:
    """Patience has no end here, and neither has the source."""
    got: list[int] = []

    async def take(data: list[int]) -> None:
        got.extend(data)

    task = streaming(function="take", collector="numbers", batch_size=1_000, flush_interval_ms=600_000)
    async with working(database, numbers(3), take, grace_seconds=600.0):
        _, task_id = await submit(database, task)
        await until(lambda: _has_read(database, task_id))
    row = await stream_of(database, task_id)
    assert (got, row.offset, row.processed, row.state) == ([1, 2, 3], 3, 3, "stopped")
    assert await outcomes(database, task_id) == ["released"]


async def _has_read(database: Database, task_id: int) -> bool:
    return ((await tasks.get(database, task_id)).progress or {}).get("total_events") == 3


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

    async def take(data: int) -> None:
        got.append(data)

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


async def having(database: Database, *names: str) -> None:
    """Another worker, with code for these functions."""
    described = [{"name": name, "description": "", "origin": "tests", "params": None} for name in names]
    await functions.register(database, described, await session_async(database))


async def test_a_stream_is_left_to_a_worker_that_has_all_its_functions(database: Database) -> None:
    """Two that have one each gave it to each other for ever."""

    async def take(data: list[int]) -> None: ...

    task = streaming(function="take", collector="numbers", error_handler="sorry")
    await having(database, "sorry")
    async with working(database, numbers(3), take, is_alone=False):
        _, task_id = await submit(database, task)
        failed = await ended(database, task_id)
        assert failed.last is not None and failed.last.error is not None
        assert (failed.attempt, failed.last.error["code"]) == (1, "unknown_function")
        await having(database, "sorry", "take")
        _, task_id = await submit(database, task)
        await until(lambda: _given_back(database, task_id))


async def _given_back(database: Database, task_id: int) -> bool:
    return await functions.given_back(database, task_id, "unknown_function") >= 2


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


async def test_only_writes_while_it_is_connected_say_that_the_source_was_seen(database: Database) -> None:
    await submit(database, streaming(function="take", collector="numbers"))
    worker = await session_async(database)
    [lease] = await tasks.claim(database, request(worker, kinds=("realtime",)), actor="worker")
    first = await stream_state.open(database, lease)
    assert (first.is_first, first.seen_at) == (True, None)
    await stream_state.keep(database, lease, ["a"], is_connected=True)
    second = await stream_state.open(database, lease)
    assert not second.is_first and second.seen_at is not None
    await stream_state.keep(database, lease, ["b"], is_connected=False)
    batch = Batch(1, 1, 1, 1, 0, 0, None)
    await stream_state.commit(database, lease, batch, StreamState.STOPPING, is_connected=False)
    await stream_state.tell(database, lease, [], is_connected=False)
    third = await stream_state.open(database, lease)
    assert (third.seen_at, third.received, third.sequence) == (second.seen_at, 2, 1)
    await stream_state.tell(database, lease, [], is_connected=True)
    assert (await stream_state.open(database, lease)).seen_at != second.seen_at


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


# --- somebody's table


async def test_rows_of_a_table_reach_the_function(database: Database, row_locking_url: str) -> None:
    got: list[Any] = []

    async def take(data: list[Any]) -> None:
        got.extend(data)

    theirs = libpq(sa.make_url(row_locking_url))
    with psycopg.connect(theirs, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, total int)")
        connection.execute("INSERT INTO orders (total) SELECT n * 10 FROM generate_series(1, 3) n")
        async with working(database, take):
            source = {"url": theirs, "table": "orders"}
            task = streaming(function="take", collector="table", params={"source": source})
            run_id, task_id = await submit(database, task)
            await processed(database, task_id, 3)
            connection.execute("INSERT INTO orders (total) VALUES (40)")
            row = await processed(database, task_id, 4)
            await runs.cancel(database, run_id)
            await ended(database, task_id)
    assert got == [{"id": number, "total": number * 10} for number in (1, 2, 3, 4)]
    assert (row.offset, row.gaps) == (4, 0)


async def test_a_row_that_cannot_be_stored_ends_the_stream(database: Database, row_locking_url: str) -> None:
    """It counted as a lost connection, and was read again for ever."""

    async def take(data: list[Any]) -> None: ...

    theirs = libpq(sa.make_url(row_locking_url))
    with psycopg.connect(theirs, autocommit=True) as connection:
        connection.execute("CREATE TABLE measured (id int, value float8)")
        connection.execute("INSERT INTO measured VALUES (1, 1.5), (2, 'NaN')")
    async with working(database, take):
        source = {"url": theirs, "table": "measured"}
        task = streaming(function="take", collector="table", params={"source": source})
        _, task_id = await submit(database, task)
        failed = await ended(database, task_id)
    assert (failed.state, failed.attempt) == ("failed", 1)
    assert failed.last is not None and failed.last.error is not None
    message = "source table measured: an item cannot be stored: number is not finite"
    assert failed.last.error["message"] == message
    assert (await stream_of(database, task_id)).offset == 1


async def test_rows_are_stored_as_json(database: Database, row_locking_url: str) -> None:
    got: list[Any] = []

    async def take(data: list[Any]) -> None:
        got.extend(data)

    theirs = libpq(sa.make_url(row_locking_url))
    with psycopg.connect(theirs, autocommit=True) as connection:
        connection.execute("CREATE TABLE priced (id numeric, at timestamptz)")
        connection.execute("INSERT INTO priced SELECT n, '2026-01-02 03:04Z' FROM generate_series(1, 3) n")
    async with working(database, take):
        source = {"url": theirs, "table": "priced", "page": 2}
        task = streaming(function="take", collector="table", params={"source": source})
        run_id, task_id = await submit(database, task)
        row = await processed(database, task_id, 3)
        await runs.cancel(database, run_id)
        await ended(database, task_id)
    assert got == [{"id": number, "at": "2026-01-02T03:04:00Z"} for number in ("1", "2", "3")]
    assert row.offset == "3"


# --- the network


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
