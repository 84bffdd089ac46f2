"""Reading, batches, retries, pauses and stops of one stream, without a database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from engine.errors import InvalidInput, PermanentError
from engine.model.json import JSON
from engine.model.realtime import Backpressure, Pressure, Reconnect, Subscription
from engine.streams.ports import CallFailed
from engine.streams.published import Published
from engine.streams.reader import delay_seconds
from engine.streams.sources import Advanced, Collector, Connected, Item, Reads
from tests.executors.factories import eventually
from tests.streams.bench import Given, MemoryStore, World, counting, failing, quick, stopped, taking

pytestmark = pytest.mark.anyio


async def test_a_source_that_ends_is_handled_in_batches_to_its_last_item() -> None:
    got: list[Any] = []
    world = World(taking(got))
    done = await world.stream(quick(batch_size=4), counting(10)).run()
    assert got == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert not done.was_stopped
    assert [(batch.first, batch.last, batch.offset) for batch in world.store.batches] == [
        (1, 4, 4),
        (5, 8, 8),
        (9, 10, 10),
    ]
    assert done.document["processed_events"] == 10 and done.document["state"] == "stopped"
    assert world.store.types() == ["task.started", "connection.established", "task.stopped"]


async def test_a_batch_of_one_is_an_item() -> None:
    got: list[Any] = []
    await World(taking(got)).stream(quick(batch_size=1), counting(3)).run()
    assert got == [1, 2, 3]


async def test_a_batch_that_is_not_full_is_handled_when_the_interval_is_over() -> None:
    got: list[Any] = []
    world = World(taking(got))
    stream = world.stream(quick(batch_size=1_000), counting(3, forever=True))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: got)
    assert (await stopped(stream, running)).was_stopped
    assert got == [[1, 2, 3]]


async def test_what_is_in_the_buffer_is_handled_when_it_is_stopped() -> None:
    got: list[Any] = []
    world = World(taking(got))
    stream = world.stream(quick(batch_size=1_000, flush_interval_ms=60_000), counting(5, forever=True))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: len(stream._buffer) == 5)
    await stopped(stream, running)
    assert got == [[1, 2, 3, 4, 5]]
    assert world.store.types()[-1] == "task.stopped"


async def test_another_attempt_goes_on_behind_the_last_batch() -> None:
    got: list[Any] = []
    world = World(taking(got))
    await world.stream(quick(batch_size=4), counting(6)).run()
    done = await world.stream(quick(batch_size=4), counting(9)).run()
    assert got == [[1, 2, 3, 4], [5, 6], [7, 8, 9]]
    assert done.document["processed_events"] == 9
    assert [batch.number for batch in world.store.batches] == [1, 2, 3]


# --- failures


async def test_a_batch_that_fails_is_tried_again() -> None:
    tries: list[Any] = []

    def take(given: Given) -> JSON:
        tries.append(given["data"])
        if len(tries) < 3:
            raise failing()
        return len(tries)

    world = World({"take": take})
    done = await world.stream(quick(), counting(2), attempts=3).run()
    assert tries == [[1, 2]] * 3
    assert [(batch.failed, batch.result) for batch in world.store.batches] == [(0, 3)]
    assert done.document["failed_events"] == 0


async def test_a_batch_that_fails_for_good_is_recorded_and_the_stream_goes_on() -> None:
    told: list[Given] = []

    def take(given: Given) -> JSON:
        if 3 in given["data"]:
            raise failing("three")
        return None

    world = World({"take": take, "sorry": lambda given: told.append(given)})
    task = quick(batch_size=2, error_handler="sorry")
    done = await world.stream(task, counting(6), attempts=2).run()
    assert [(batch.first, batch.failed, batch.error) for batch in world.store.batches] == [
        (1, 0, None),
        (3, 2, "three"),
        (5, 0, None),
    ]
    assert [(given["data"], given["error"]) for given in told] == [([3, 4], "three")]
    assert (done.document["processed_events"], done.document["failed_events"]) == (4, 2)
    assert [type for type in world.store.types() if type.startswith("error.")] == [
        "error.occurred",
        "error.recovered",
    ]


async def test_a_source_that_fails_is_read_again_from_where_it_was() -> None:
    asked: list[JSON] = []
    got: list[Any] = []

    async def shaky(offset: JSON) -> AsyncIterator[int]:
        asked.append(offset)
        yield (offset or 0) + 1
        if len(asked) < 3:
            raise ConnectionError("gone")

    world = World(taking(got))
    await world.stream(quick(batch_size=1), Collector("shaky", shaky, replayable=True)).run()
    assert (asked, got) == ([None, 1, 2], [1, 2, 3])
    assert world.store.types().count("connection.lost") == 2
    assert world.store.types().count("connection.restored") == 2
    assert world.store.standing.gaps == 0


async def test_what_is_wrong_for_good_is_not_tried_again() -> None:
    async def refused(offset: JSON) -> AsyncIterator[int]:
        yield 1
        raise PermanentError("no such topic")

    got: list[Any] = []
    world = World(taking(got))
    with pytest.raises(PermanentError, match="no such topic"):
        await world.stream(quick(), Collector("refused", refused, replayable=True)).run()
    assert got == [[1]]


def test_waits_grow_to_a_limit() -> None:
    policy = Reconnect(first_ms=100, max_ms=1_000, factor=3.0, jitter=0.0)
    assert [delay_seconds(policy, retries) for retries in (1, 2, 3, 4, 1_000)] == [0.1, 0.3, 0.9, 1.0, 1.0]


# --- sources that cannot be replayed


async def test_items_that_cannot_be_read_again_are_stored_before_they_are_handled() -> None:
    stored: list[int] = []
    world = World({"take": lambda given: stored.append(len(world.store.items))})

    async def once(offset: JSON) -> AsyncIterator[str]:
        for word in ("a", "b", "c"):
            yield word

    await world.stream(quick(), Collector("once", once, replayable=False)).run()
    assert stored == [3] and world.store.items == {}


async def test_stored_items_are_handled_by_the_next_attempt_and_the_gap_is_told() -> None:
    got: list[Any] = []
    store = MemoryStore()
    await store.open()
    await store.keep(["a", "b"])  # the attempt before came as far as that

    async def live(offset: JSON) -> AsyncIterator[str]:
        yield "c"

    world = World(taking(got), store)
    await world.stream(quick(batch_size=1), Collector("live", live, replayable=False)).run()
    assert got == ["a", "b", "c"]
    assert set(store.payload_of("connection.restored")["gap"]) == {"from", "to"}
    assert store.standing.gaps == 1


class ReachedOnce(Collector):
    """Says one thing, loses the connection, and is never reached again."""

    async def items(self, offset: JSON, /) -> Reads:
        async for item in self.opens(offset):
            yield Connected()
            yield Item(item)
        raise ConnectionError("gone")


async def test_a_gap_begins_when_the_source_was_seen_last_not_when_somebody_wrote_last() -> None:
    """One attempt loses the connection and ends while it tries to connect again; another comes later."""
    words = iter(["a"])

    async def once(offset: JSON) -> AsyncIterator[str]:
        for word in words:
            yield word

    world = World(taking([]))
    stream = world.stream(quick(batch_size=1), ReachedOnce("once", once, replayable=False))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: world.store.types().count("connection.reconnecting") >= 5)
    await stopped(stream, running)
    seen_at, [lost] = world.store.standing.seen_at, world.store.of("connection.lost")
    assert seen_at is not None and seen_at <= lost.timestamp
    await world.stream(quick(), Collector("silent", once, replayable=False)).run()
    assert world.store.payload_of("connection.restored")["gap"]["from"] == seen_at.isoformat()


# --- backpressure, pauses, events


async def test_dropped_items_are_counted() -> None:
    async def flood(offset: JSON) -> AsyncIterator[int]:
        for number in range(50):
            yield number

    got: list[Any] = []
    world = World(taking(got))
    task = quick(buffer_size=10, batch_size=10, backpressure=Backpressure(0.8, Pressure.DROP))
    done = await world.stream(task, Collector("flood", flood, replayable=True)).run()
    handled = sum(map(len, got))
    assert handled >= 10 and handled + done.document["dropped_events"] == 50
    assert "backpressure.triggered" in world.store.types()


@pytest.mark.parametrize("action", [Pressure.DROP, Pressure.BLOCK])
async def test_a_buffer_that_is_full_in_bytes_does_not_wait_for_the_interval(
    monkeypatch: pytest.MonkeyPatch, action: Pressure
) -> None:
    monkeypatch.setattr("engine.streams.buffer.MAX_BYTES", 100)

    async def large(offset: JSON) -> AsyncIterator[str]:
        for number in range(20):
            yield str(number) * 30
            await asyncio.sleep(0.001)

    got: list[Any] = []
    task = quick(batch_size=50, flush_interval_ms=600_000, backpressure=Backpressure(1.0, action))
    stream = World(taking(got)).stream(task, Collector("large", large, replayable=True))
    done = await asyncio.wait_for(stream.run(), 20)
    assert len(got) > 3
    assert sum(map(len, got)) + done.document["dropped_events"] == 20


async def test_each_pressure_that_the_history_tells_is_relieved_there() -> None:
    """The buffer fills and empties many times a second; few of these are written down, both ends of each."""
    told: list[Any] = []
    subscriptions = [Subscription(f"backpressure.{what}", "note") for what in ("triggered", "relieved")]
    world = World({**taking([]), "note": lambda given: told.append(given["event"]["type"])})
    task = quick(buffer_size=4, batch_size=4, subscriptions=subscriptions)
    await world.stream(task, counting(200)).run()
    kept = [type for type in world.store.types() if type.startswith("backpressure.")]
    assert len(told) > len(kept) >= 2
    for types in (told, kept):
        assert types == ["backpressure.triggered", "backpressure.relieved"] * (len(types) // 2)


async def test_a_pause_stops_reading_and_handling_until_it_is_over() -> None:
    got: list[Any] = []
    read: list[int] = []

    async def numbers(offset: JSON) -> AsyncIterator[int]:
        for number in range(1, 1_000):
            read.append(number)
            yield number
            await asyncio.sleep(0)

    world = World(taking(got), MemoryStore(is_paused=True))
    stream = world.stream(quick(batch_size=1), Collector("numbers", numbers, replayable=True))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: "task.paused" in world.store.types() and read)
    assert got == [] and read == [1]
    world.store.is_paused = False
    await asyncio.wait_for(running, 30)
    assert got == list(range(1, 1_000))
    assert [type for type in world.store.types() if type.startswith("task.")] == [
        "task.started",
        "task.paused",
        "task.resumed",
        "task.stopped",
    ]


async def test_subscribers_are_told_in_the_order_of_their_priority() -> None:
    told: list[tuple[str, Any]] = []

    def note(name: str) -> Callable[[Given], JSON]:
        return lambda given: told.append((name, given["event"]["payload"]["data"]))

    subscriptions = [
        Subscription("data.arrived", "low"),
        Subscription("data.batched", "batched"),
        Subscription("data.arrived", "high", priority=5),
    ]
    functions = {name: note(name) for name in ("low", "batched", "high")}
    world = World({**functions, "take": lambda given: None})
    await world.stream(quick(subscriptions=subscriptions), counting(1)).run()
    assert told == [("high", 1), ("low", 1), ("batched", [1])]


async def test_a_subscriber_that_fails_changes_nothing() -> None:
    def broken(given: Given) -> JSON:
        raise failing("mine")

    world = World({"broken": broken, "take": lambda given: None})
    task = quick(subscriptions=[Subscription("data.arrived", "broken")])
    done = await world.stream(task, counting(2)).run()
    assert done.document["processed_events"] == 2
    assert world.lines == ["subscriber broken of data.arrived: mine"] * 2


async def test_published_events_reach_their_subscribers_and_the_handler() -> None:
    told: list[Any] = []
    got: list[Any] = []
    store = MemoryStore()
    for number, type in enumerate(("order", "other", "order"), 1):
        await store.keep([{"id": str(number), "type": type, "payload": number}])
    world = World({"on_order": lambda given: told.append(given["data"]), **taking(got)}, store)
    task = quick(subscriptions=[Subscription("order", "on_order", filter="3")])
    stream = world.stream(task, Published(store), are_events=True)
    running = asyncio.create_task(stream.run())
    await eventually(lambda: not store.items)
    await stopped(stream, running)
    assert (told, got) == ([3], [[1, 2, 3]])


async def test_an_event_whose_subscriber_fails_does_not_fail_the_others() -> None:
    def on_order(given: Given) -> JSON:
        if given["data"] == 1:
            raise failing("one")
        return None

    store = MemoryStore()
    await store.keep([{"id": "a", "type": "order", "payload": 1}, {"id": "b", "type": "order", "payload": 2}])
    got: list[Any] = []
    world = World({"on_order": on_order, **taking(got)}, store)
    task = quick(subscriptions=[Subscription("order", "on_order")])
    stream = world.stream(task, Published(store), are_events=True)
    running = asyncio.create_task(stream.run())
    await eventually(lambda: store.batches)
    await stopped(stream, running)
    assert got == [[2]]
    assert (store.batches[0].failed, store.batches[0].error) == (1, "one")


async def test_somebodys_items_may_have_offsets_of_their_own() -> None:
    async def pages(offset: JSON) -> AsyncIterator[Any]:
        yield Item({"row": 1}, {"page": 1})

    world = World(taking([]))
    await world.stream(quick(), Collector("pages", pages, replayable=True)).run()
    assert world.store.standing.offset == {"page": 1}


async def test_a_source_that_raises_a_cancellation_has_lost_its_connection() -> None:
    """Not somebody's order to end: the stream once ended as if its source were over."""
    got: list[Any] = []
    calls = 0

    async def items(offset: JSON) -> AsyncIterator[Any]:
        nonlocal calls
        calls += 1
        yield 1
        if calls == 1:
            raise asyncio.CancelledError
        yield 2

    source = Collector("odd", items, replayable=False)
    await World(taking(got)).stream(quick(batch_size=1), source).run()
    assert got == [1, 1, 2]


async def test_a_store_that_raises_a_cancellation_ends_the_stream() -> None:
    """Once it went on without storing anything, and without a word."""

    class Odd(MemoryStore):
        async def keep(self, payloads: Any, /, *, is_connected: bool = True) -> int:
            raise asyncio.CancelledError

    async def items(offset: JSON) -> AsyncIterator[Any]:
        yield 1
        await asyncio.Event().wait()

    stream = World(taking([]), store=Odd()).stream(quick(), Collector("one", items, replayable=False))
    running = asyncio.create_task(stream.run())
    await asyncio.wait({running}, timeout=10)
    assert running.cancelled()


async def test_errors_are_told_with_what_no_database_takes_as_escapes() -> None:
    def take(given: Given) -> JSON:
        raise CallFailed("bad \x00 and \udc80", is_permanent=True)

    async def items(offset: JSON) -> AsyncIterator[Any]:
        if offset is None:
            yield Item(1, 1)
            raise ValueError("lost \x00 \udc80")

    world = World({"take": take})
    await world.stream(quick(batch_size=1), Collector("odd", items, replayable=True)).run()
    assert world.store.batches[0].error == "bad \\x00 and \\udc80"
    assert world.store.payload_of("error.occurred")["message"] == "bad \\x00 and \\udc80"
    assert world.store.payload_of("connection.lost")["error"] == "ValueError: lost \\x00 \\udc80"


async def test_an_item_that_cannot_be_stored_ends_the_stream_for_good() -> None:
    """It would be read again, and again be refused."""

    async def items(offset: JSON) -> AsyncIterator[Any]:
        yield "bad \x00"

    stream = World(taking([])).stream(quick(), Collector("odd", items, replayable=True))
    with pytest.raises(InvalidInput, match="source odd: an item cannot be stored: text contains the NUL"):
        await stream.run()


async def test_an_empty_page_moves_the_offset_on() -> None:
    asked: list[JSON] = []

    async def items(offset: JSON) -> AsyncIterator[Any]:
        asked.append(offset)
        if offset is None:
            yield Advanced(7)
        elif offset == 7:
            yield Item("at last", 8)

    world = World(taking([]))
    stream = world.stream(quick(), Collector("pages", items, replayable=True, every=0.001))
    running = asyncio.create_task(stream.run())
    await eventually(lambda: bool(world.store.batches))
    await stopped(stream, running)
    assert asked[:3] == [None, 7, 8]
