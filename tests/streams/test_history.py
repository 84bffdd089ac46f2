"""What the history of a run is told of a connection: losses that last, and few of those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from engine.model.json import JSON
from engine.model.realtime import Subscription
from engine.streams.sources import Collector
from tests.executors.factories import eventually
from tests.streams.bench import World, quick, stopped, taking

pytestmark = pytest.mark.anyio


async def test_the_history_has_few_of_many_retries() -> None:
    calls = 0

    async def items(offset: JSON) -> AsyncIterator[Any]:
        nonlocal calls
        calls += 1
        if calls <= 20:
            raise OSError("nobody there")
        yield 1

    world = World(taking([]))
    await world.stream(quick(), Collector("far", items, replayable=True)).run()
    told = [event.payload["retry_count"] for event in world.store.of("connection.reconnecting")]
    assert told == [1, 2, 4, 8, 16]


def flapping(times: int) -> Collector:
    """Says one thing and loses the connection, so many times; then it stands, and is silent."""
    calls = 0

    async def items(offset: JSON) -> AsyncIterator[Any]:
        nonlocal calls
        calls += 1
        if calls > times:
            await asyncio.Event().wait()
        yield calls
        raise ConnectionError("gone")

    return Collector("flaps", items, replayable=False)


async def test_the_history_has_few_losses_of_a_source_that_comes_and_goes() -> None:
    told: list[Any] = []
    subscription = Subscription("connection.lost", "note")
    world = World({**taking([]), "note": lambda given: told.append(given)})
    stream = world.stream(quick(subscriptions=[subscription]), flapping(20))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: world.store.standing.gaps == 20)
    kept = [type for type in world.store.types() if type.startswith("connection.")]
    one = ["connection.lost", "connection.reconnecting", "connection.restored"]
    assert kept == ["connection.established", *one * 5]  # those numbered 1, 2, 4, 8 and 16
    assert len(told) == 20
    done = await stopped(stream, running)
    assert world.store.types()[-2:] == ["connection.restored", "task.stopped"]
    assert done.document["gaps"] == 20


async def test_a_gap_in_the_history_covers_those_that_it_was_not_told_of() -> None:
    world = World(taking([]))
    lost: list[str] = []
    world.functions["note"] = lambda given: lost.append(given["event"]["timestamp"])
    task = quick(subscriptions=[Subscription("connection.lost", "note")])
    stream = world.stream(task, flapping(7))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: world.store.standing.gaps == 7)
    await stopped(stream, running)
    gaps = [event.payload["gap"] for event in world.store.of("connection.restored")]
    covered = [[n for n, at in enumerate(lost, 1) if gap["from"] <= at <= gap["to"]] for gap in gaps]
    assert covered == [[1], [2], [3, 4], [5, 6, 7]]  # the last one when the stream ended


@pytest.mark.parametrize("is_restored", [True, False])
async def test_the_history_is_told_of_what_lasts(monkeypatch: pytest.MonkeyPatch, is_restored: bool) -> None:
    """Of the third loss it is not told, nor of what follows from it, until that has lasted for a while."""
    world = World(taking([]))
    teller = world.teller(quick(), flapping(0))
    await teller.connected(0)
    for _ in range(2):
        await teller.lost(1, "gone")
        await teller.restored(1, None)
    before = world.store.types()
    assert before.count("connection.lost") == 2
    await teller.lost(1, "gone")
    await teller.reconnecting(1, "gone")
    if is_restored:
        await teller.restored(1, None)
    await teller.settle()
    assert world.store.types() == before
    monkeypatch.setattr("engine.streams.telling.LASTING_SECONDS", 0.0)
    await teller.settle()
    await teller.settle()
    what = "connection.restored" if is_restored else "connection.lost"
    assert world.store.types() == [*before, what]
    await teller.reconnecting(2, "gone")  # and of what follows
    await teller.lost(1, "gone")
    assert world.store.types() == [*before, what, "connection.reconnecting", "connection.lost"]


async def test_a_stream_looks_whether_its_connection_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.streams.telling.LASTING_SECONDS", 0.5)
    monkeypatch.setattr("engine.streams.loop.LOOK_SECONDS", 0.01)
    world = World(taking([]))
    stream = world.stream(quick(), flapping(3))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: world.store.types().count("connection.restored") == 3)
    await stopped(stream, running)
