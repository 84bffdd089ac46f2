"""The bounded buffer: what a full one does, and when the pressure is told."""

from __future__ import annotations

import asyncio

import pytest

from engine.model.realtime import Backpressure, Pressure
from engine.streams.buffer import Buffer, Entry
from engine.streams.events import EventType
from engine.streams.sources import Item

pytestmark = pytest.mark.anyio


def entry(payload: int) -> Entry:
    return Entry(Item(payload))


def payloads(entries: list[Entry]) -> list[int]:
    return [each.item.payload for each in entries]


async def test_a_full_buffer_drops_the_newest() -> None:
    buffer = Buffer(2, Backpressure(0.8, Pressure.DROP))
    assert [await buffer.put(entry(number)) for number in (1, 2, 3)] == [True, True, False]
    assert payloads(buffer.take(10)) == [1, 2]


async def test_what_is_stored_is_never_dropped() -> None:
    buffer = Buffer(1, Backpressure(0.8, Pressure.DROP))
    await buffer.put(entry(1))
    waits = asyncio.create_task(buffer.put(entry(2), is_kept=True))
    await asyncio.sleep(0)
    assert not waits.done()
    buffer.take(1)
    assert await waits


@pytest.mark.parametrize("action", [Pressure.BLOCK, Pressure.THROTTLE])
async def test_a_full_buffer_blocks_its_producer(action: Pressure) -> None:
    buffer = Buffer(1, Backpressure(1.0, action))
    await buffer.put(entry(1))
    blocked = asyncio.create_task(buffer.put(entry(2)))
    done, _ = await asyncio.wait({blocked}, timeout=0.25)  # longer than it is slowed down at most
    assert not done
    assert payloads(buffer.take(1)) == [1]
    assert await blocked and payloads(buffer.take(1)) == [2]


async def test_pressure_is_told_once_and_relieved_below_half_of_the_threshold() -> None:
    buffer = Buffer(10, Backpressure(0.8, Pressure.BLOCK))
    crossed = []
    for number in range(10):
        await buffer.put(entry(number))
        crossed.append(buffer.crossed())
    assert crossed == [None] * 7 + [EventType.BACKPRESSURE_TRIGGERED, None, None]
    crossed = []
    while len(buffer):
        buffer.take(1)
        crossed.append(buffer.crossed())
    assert crossed == [None] * 6 + [EventType.BACKPRESSURE_RELIEVED, None, None, None]


async def test_only_what_is_ready_is_taken() -> None:
    buffer = Buffer(10, Backpressure())
    for number in (1, 2, 3):
        await buffer.put(entry(number), is_ready=False)
    assert buffer.take(10) == []
    assert payloads(await buffer.unready(2, 1_000)) == [1, 2]
    buffer.make_ready(2)
    assert payloads(buffer.take(10)) == [1, 2]
    assert payloads(await buffer.unready(9, 1_000)) == [3]


async def test_a_closed_buffer_gives_its_rest() -> None:
    buffer = Buffer(10, Backpressure())
    await buffer.put(entry(1), is_ready=False)
    buffer.close()
    filled = asyncio.create_task(buffer.filled(5))
    await asyncio.sleep(0)
    assert not filled.done()  # it has to be stored first
    buffer.make_ready(1)
    await filled
    assert payloads(buffer.take(5)) == [1] and buffer.is_over
    assert await buffer.unready(5, 1_000) == []


async def test_a_buffer_has_room_for_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.streams.buffer.MAX_BYTES", 100)
    buffer = Buffer(10, Backpressure(0.8, Pressure.DROP))
    assert await buffer.put(Entry(Item(1), size=500))  # one always fits
    assert not await buffer.put(Entry(Item(2), size=1))
    buffer.take(1)
    assert [await buffer.put(Entry(Item(number), size=40)) for number in (3, 4, 5)] == [True, True, False]
    assert buffer.usage == 0.8
    assert payloads(buffer.take(10)) == [3, 4]


async def turns() -> None:
    """All that can go on by itself has done so: nothing in a buffer waits for time."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("action", [Pressure.DROP, Pressure.BLOCK])
async def test_a_buffer_that_is_full_in_bytes_has_a_batch(
    monkeypatch: pytest.MonkeyPatch, action: Pressure
) -> None:
    """Whoever makes batches waited for as many items as never found room."""
    monkeypatch.setattr("engine.streams.buffer.MAX_BYTES", 100)
    buffer = Buffer(10, Backpressure(1.0, action))
    for number in (1, 2):
        await buffer.put(Entry(Item(number), size=40), is_ready=False)
    filled = asyncio.create_task(buffer.filled(10))
    one_more = asyncio.create_task(buffer.put(Entry(Item(3), size=40)))
    await turns()
    assert not filled.done()  # they have to be stored first
    buffer.make_ready(2)
    await asyncio.wait_for(filled, 5)
    assert payloads(buffer.take(10)) == [1, 2]
    assert await one_more is (action is Pressure.BLOCK)
    again = asyncio.create_task(buffer.filled(10))
    await buffer.put(Entry(Item(4), size=40))
    await turns()
    assert not again.done()  # there is room again
    again.cancel()


async def test_what_is_to_be_stored_at_once_has_so_many_bytes() -> None:
    buffer = Buffer(10, Backpressure(0.8, Pressure.BLOCK))
    for number in range(4):
        await buffer.put(Entry(Item(number), size=40), is_ready=False)
    assert payloads(await buffer.unready(10, 100)) == [0, 1]
    assert payloads(await buffer.unready(10, 1)) == [0]
    assert payloads(await buffer.unready(3, 1_000)) == [0, 1, 2]
