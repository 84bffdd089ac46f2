"""Many readers, slow readers, none; and a database or a server that goes away."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from engine.api import streams
from engine.api.streams import Tail
from engine.operations import runs
from engine.store.database import Database
from tests.api.streams.frames import close_code, shake_hands
from tests.api.streams.listening import (
    PATIENCE_SECONDS,
    ends,
    everything,
    listening,
    numbers_of,
    start,
    told,
    told_until,
    work,
)
from tests.api.test_server import Running, running

pytestmark = pytest.mark.anyio


async def test_readers_share_what_is_read(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 of one instance, or of its workflow: the database is asked by one."""
    run_id = await start(database, chain=" -> ".join(f"t{number}" for number in range(10)))
    reads = Counter[str]()
    read = database.read

    async def counted(work: Any, *args: Any) -> Any:
        reads[getattr(work, "__name__", "?")] += 1
        return await read(work, *args)

    async with AsyncExitStack() as stack:
        paths = [f"instances/{run_id}"] * 100 + ["workflows/orders"] * 100
        open_ones = [await stack.enter_async_context(listening(server, path)) for path in paths]
        for socket in open_ones:
            await told(socket)
        monkeypatch.setattr(database, "read", counted)
        working = asyncio.create_task(work(database))
        found = await asyncio.gather(*(told_until(socket, ends(run_id)) for socket in open_ones))
        await working
    expected = (await numbers_of(database, run_id))[1:]
    assert all([message["number"] for message in messages] == expected for messages in found)
    assert reads.keys() <= {"_answer", "<lambda>", "session", "get_run"}
    assert reads["page"] == 0


async def test_a_reader_that_never_reads_holds_up_nobody_and_is_cut_off(
    database: Database, tmp_path: Path
) -> None:
    chain = " -> ".join(f"t{number}-{'x' * 150}" for number in range(1500))
    async with running(database, tmp_path, write_timeout_seconds=1.0) as server:
        run_id = await start(database, chain=chain)
        await runs.cancel(database, run_id)  # 1,500 events and more, at once
        deaf = await shake_hands(server, f"instances/{run_id}?after=0", receive_bytes=4096)
        async with listening(server, f"instances/{run_id}", after=0) as socket:
            found, code = await everything(socket)
        assert ([message["number"] for message in found], code) == (await numbers_of(database, run_id), 1000)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while server.app.state.services.tail._runs:  # until nobody follows
                await asyncio.sleep(0.02)
        deaf[1].close()


async def test_a_slow_reader_reads_on_from_the_table(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_RECENT_EVENTS", 5)
    monkeypatch.setattr(streams, "_PAGE_EVENTS", 7)
    run_id = await start(database, chain=" -> ".join(f"t{number}" for number in range(20)))
    async with listening(server, f"instances/{run_id}", after=0, max_queue=1) as socket:
        await told(socket)
        await work(database)
        found, code = await everything(socket)
    expected = (await numbers_of(database, run_id))[1:]
    assert ([message["number"] for message in found], code) == (expected, 1000)


# --- the end


async def test_a_server_that_stops_says_so(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await start(database)
    async with running(database, tmp_path) as server:
        reader, writer = await shake_hands(server, f"instances/{run_id}")  # never answers
        async with (
            listening(server, f"instances/{run_id}") as one,
            listening(server, "workflows/orders") as other,
        ):
            await told(one)
            await told(other)
            server.stop.set()  # `running` waits 10 s for the end
            assert await everything(one) == ([], 1012)
            assert await everything(other) == ([], 1012)
            assert await close_code(reader) == 1012
    writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_nothing_is_looked_at_when_nobody_listens(database: Database, server: Running) -> None:
    run_id = await start(database)
    tail: Tail = server.app.state.services.tail
    async with listening(server, f"instances/{run_id}") as socket, listening(server, "workflows/orders"):
        await told(socket)
        assert tail._handle is not None
        handle = tail._handle
    async with asyncio.timeout(PATIENCE_SECONDS):
        await handle
    assert (tail._runs, tail._workflows, len(tail._order)) == ({}, {}, 0)
    assert database._on_wake == []


async def test_a_database_that_fails_for_a_moment_ends_nothing(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await start(database)
    failed = asyncio.Event()
    answer, loop = streams._answer, asyncio.get_running_loop()

    def fail(*_: Any) -> Any:
        loop.call_soon_threadsafe(failed.set)
        raise OSError("gone")

    async with listening(server, f"instances/{run_id}") as socket:
        await told(socket)
        monkeypatch.setattr(streams, "_answer", fail)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await failed.wait()
        monkeypatch.setattr(streams, "_answer", answer)
        await work(database)
        found, code = await everything(socket)
    assert ([message["number"] for message in found], code) == (
        (await numbers_of(database, run_id))[1:],
        1000,
    )
