"""How often a lost connection is tried again, and what counts as one that stood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from engine.model.json import JSON
from engine.model.realtime import Reconnect
from engine.streams.reader import SourceLost
from engine.streams.sources import Collector, Connected, Item, Reads
from tests.streams.bench import World, quick, taking

pytestmark = pytest.mark.anyio


async def test_reconnecting_has_an_end() -> None:
    async def broken(offset: JSON) -> AsyncIterator[int]:
        raise ConnectionError("gone")
        yield 1

    task = quick(reconnect=Reconnect(max_attempts=2, first_ms=1, max_ms=60_000, factor=1.0))
    world = World(taking([]))
    with pytest.raises(SourceLost, match="source broken: ConnectionError: gone"):
        await world.stream(task, Collector("broken", broken, replayable=True)).run()
    assert world.store.types().count("connection.reconnecting") == 2
    assert world.store.types()[-2:] == ["error.occurred", "task.stopped"]


async def nothing(offset: JSON) -> AsyncIterator[int]:
    return
    yield 1


class SlowToFail(Collector):
    """Fails for longer than the longest wait between attempts."""

    async def items(self, offset: JSON, /) -> Reads:
        await asyncio.sleep(0.01)
        raise ConnectionError("timed out")
        yield Connected()


BRIEF = Reconnect(max_attempts=2, first_ms=1, max_ms=1, jitter=0.0)


async def test_reconnecting_has_an_end_though_each_attempt_takes_long() -> None:
    stream = World(taking([])).stream(quick(reconnect=BRIEF), SlowToFail("far", nothing, replayable=True))
    with pytest.raises(SourceLost, match="source far: ConnectionError: timed out"):
        await asyncio.wait_for(stream.run(), 20)


class Silent(Collector):
    """Is reached, and lost before it says anything; from the sixth time on it says something."""

    async def items(self, offset: JSON, /) -> Reads:
        yield Connected()
        await asyncio.sleep(0.01)
        async for item in self.opens(offset):
            yield Item(item)


def at_the_sixth_call() -> Callable[[JSON], AsyncIterator[int]]:
    calls = 0

    async def values(offset: JSON) -> AsyncIterator[int]:
        nonlocal calls
        calls += 1
        if calls < 6:
            await asyncio.sleep(0.01)
            raise ConnectionError("gone")
        yield 1

    return values


async def test_attempts_are_counted_anew_after_a_connection_that_stood_though_it_was_silent() -> None:
    got: list[Any] = []
    source = Silent("rare", at_the_sixth_call(), replayable=False)
    await World(taking(got)).stream(quick(reconnect=BRIEF), source).run()
    assert got == [[1]]


async def test_a_function_that_is_slow_to_fail_is_not_taken_for_a_connection_that_stood() -> None:
    source = Collector("function", at_the_sixth_call(), replayable=True)
    with pytest.raises(SourceLost, match="source function: ConnectionError: gone"):
        await asyncio.wait_for(World(taking([])).stream(quick(reconnect=BRIEF), source).run(), 20)
