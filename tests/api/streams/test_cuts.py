"""Readers that are cut, and come back to any server, see every event once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from engine.api import streams
from engine.operations import executions, runs
from engine.store.database import Database
from tests.api.streams.listening import (
    PATIENCE_SECONDS,
    age,
    everything,
    listening,
    numbers_of,
    save,
    start,
    told,
    url_of,
    work,
)
from tests.api.test_server import Running, running

pytestmark = pytest.mark.anyio


async def cut_at_random(
    choose: Callable[[], str], key: str, seen: list[dict[str, Any]], chance: random.Random
) -> None:
    """Read a few messages, cut the line, come back with the last `key`; until the server closes with 1000."""
    after: Any = 0
    while True:
        async with connect(f"{choose()}?after={after}", proxy=None) as socket:
            try:
                for _ in range(chance.randint(0, 9)):
                    seen.append(await told(socket))
                    after = seen[-1][key]
            except ConnectionClosed as closed:
                assert closed.rcvd is not None
                assert closed.rcvd.code == 1000
                return
            socket.transport.abort()


async def test_clients_cut_at_random_see_every_event_of_an_instance_once(
    database: Database, server: Running
) -> None:
    run_id = await start(database, chain=" -> ".join(f"t{number}" for number in range(25)))
    seen: list[list[dict[str, Any]]] = [[] for _ in range(10)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for seed, found in enumerate(seen):
            path = url_of(server, f"instances/{run_id}")
            group.create_task(cut_at_random(lambda path=path: path, "number", found, random.Random(seed)))  # type: ignore[misc]
        await work(database)
    expected = await numbers_of(database, run_id)
    for found in seen:
        assert [message["number"] for message in found] == expected


async def hop(
    choose: Callable[[], str], expected: Counter[str], done: asyncio.Event, chance: random.Random
) -> list[dict[str, Any]]:
    """As `cut_at_random`, with cursors, until there is nothing more to come."""
    seen: list[dict[str, Any]] = []
    after = "0"
    while not (done.is_set() and len(seen) >= expected.total()):
        async with connect(f"{choose()}?after={after}", proxy=None) as socket:
            for _ in range(chance.randint(1, 40)):
                if done.is_set() and len(seen) >= expected.total():
                    break
                is_over = done.is_set()
                try:
                    async with asyncio.timeout(PATIENCE_SECONDS if is_over else 0.3):
                        seen.append(json.loads(await socket.recv()))
                except TimeoutError:
                    got = Counter(message["instance_id"] for message in seen)
                    assert not is_over, f"these never came: {expected - got} behind {after}"
                    break
                after = seen[-1]["cursor"]
            socket.transport.abort()
    return seen


async def check_workflow_readers(
    database: Database, servers: list[Running], count: int, ended: Iterable[int] = ()
) -> None:
    """Runs start, end, fail and are retried, while readers are cut and come back to any of `servers`."""
    workflow_id = await save(database)
    done, expected = asyncio.Event(), Counter[str]()
    paths = [url_of(server, f"workflows/{workflow_id}") for server in servers]

    async def act() -> None:
        chance, failed = random.Random(7), list[int]()
        started = [*ended]
        for number in range(count):
            for _ in range(chance.randint(1, 3)):
                started.append((await executions.execute(database, workflow_id)).run_id)
            await work(database, *(["book"] if number % 3 == 0 else []))
            states = [await runs.get(database, run_id) for run_id in started]
            failed = [run.id for run in states if run.failed]
            if failed and number % 4 == 3:
                await runs.retry(database, failed[0])
        for run_id in started:
            expected[str(run_id)] = len(await numbers_of(database, run_id))
        done.set()

    async with asyncio.timeout(100), asyncio.TaskGroup() as group:
        group.create_task(act())
        readers = []
        for seed in range(5):
            chance = random.Random(seed)
            choose = lambda chance=chance: chance.choice(paths)  # noqa: E731
            readers.append(group.create_task(hop(choose, expected, done, chance)))
    for reader in readers:
        by_run: dict[str, list[int]] = {}
        for message in reader.result():
            by_run.setdefault(message["instance_id"], []).append(message["number"])
        assert by_run == {run_id: list(range(1, last + 1)) for run_id, last in expected.items()}


async def test_clients_cut_at_random_see_every_event_of_a_workflow_once(
    database: Database, server: Running
) -> None:
    await check_workflow_readers(database, [server], 12)


async def test_runs_that_ended_a_while_ago_leave_the_cursor_and_are_told_once(
    database: Database, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of them before anybody read. No transaction may take as long as the lag, on a busy disk either."""
    monkeypatch.setattr(streams, "_LAG", timedelta(seconds=3))
    monkeypatch.setattr(streams, "_STEP", timedelta(seconds=0.1))
    monkeypatch.setattr(streams, "_ENDED_RUNS", 2)
    ended = [await start(database) for _ in range(7)]
    await work(database, "book")
    age(database)
    await check_workflow_readers(database, [server], 15, ended)


async def test_two_servers_on_one_database_tell_the_same(row_locking_url: str, tmp_path: Path) -> None:
    here, there = Database(row_locking_url), Database(row_locking_url)
    try:
        async with running(here, tmp_path) as one, running(there, tmp_path) as other:
            await check_workflow_readers(here, [one, other], 10)
            run_id = await start(here)
            async with listening(other, f"instances/{run_id}", after=0) as socket:
                await work(here)
                found, code = await everything(socket)
            assert ([message["number"] for message in found], code) == (
                await numbers_of(here, run_id),
                1000,
            )
    finally:
        here.close()
        there.close()
