"""A stream without a database: a store that remembers, and functions that are plain callables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from engine.model.json import JSON, check_storable
from engine.model.realtime import RealtimeTask, Reconnect
from engine.model.retry import Backoff, RetryPolicy
from engine.streams.events import StreamEvent, StreamState
from engine.streams.handling import Handling
from engine.streams.loop import Stream
from engine.streams.ports import Batch, CallFailed, Standing, Stored
from engine.streams.sources import Collector, Source
from engine.streams.subscribers import Subscribers
from engine.streams.telling import Names, Teller

Given = Mapping[str, JSON]
# Every wait is short, and no connection stands long enough for the attempts to be counted from 1 again.
QUICK = Reconnect(first_ms=1, max_ms=60_000, factor=1.0, jitter=0.0)


def quick(**fields: Any) -> RealtimeTask:
    """A task whose waits are short."""
    return RealtimeTask("s", **{"function": "take", "flush_interval_ms": 10, "reconnect": QUICK, **fields})


@dataclass
class MemoryStore:
    """`StreamStore` that lasts as long as this object: attempts share it."""

    standing: Standing = field(default_factory=Standing)
    items: dict[int, JSON] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    events: list[StreamEvent] = field(default_factory=list)
    is_paused: bool = False

    async def open(self) -> Standing:
        before = replace(self.standing, is_paused=self.is_paused)
        self.standing = replace(self.standing, is_first=False)
        return before

    def _see(self, is_connected: bool) -> None:
        if is_connected:
            self.standing = replace(self.standing, seen_at=datetime.now(UTC))

    async def keep(self, payloads: Sequence[JSON], /, *, is_connected: bool = True) -> int:
        self._see(is_connected)
        first = self.standing.received + 1
        self.items |= dict(enumerate(payloads, first))
        self.standing = replace(self.standing, received=self.standing.received + len(payloads))
        return first

    async def waiting(self, after: int, limit: int, /) -> list[Stored]:
        return [Stored(number, self.items[number]) for number in sorted(self.items) if number > after][:limit]

    async def arrived(self) -> None:
        await asyncio.sleep(0.005)

    async def commit(self, batch: Batch, state: StreamState, /, *, is_connected: bool = True) -> bool:
        self._see(is_connected)
        check_storable([batch.offset, batch.result, batch.error])
        self.batches.append(batch)
        self.items = {number: item for number, item in self.items.items() if number > batch.last}
        now = self.standing
        self.standing = replace(
            now,
            offset=batch.offset,
            sequence=batch.last,
            received=max(now.received, batch.last),
            processed=now.processed + batch.size - batch.failed,
            failed=now.failed + batch.failed,
            dropped=now.dropped + batch.dropped,
            batches=batch.number,
        )
        return self.is_paused

    async def look(self) -> bool:
        return self.is_paused

    async def tell(
        self,
        events: Sequence[StreamEvent],
        /,
        *,
        state: StreamState | None = None,
        gaps: int = 0,
        is_connected: bool = False,
    ) -> None:
        self._see(is_connected)
        check_storable([event.payload for event in events])
        self.events += events
        self.standing = replace(self.standing, gaps=self.standing.gaps + gaps)

    async def holds(self, condition: str, names: Mapping[str, JSON], /) -> bool:
        """Conditions here are the text that the payload has to be."""
        return str(names["payload"]) == condition

    def types(self) -> list[str]:
        return [event.type for event in self.events]

    def payload_of(self, type: str) -> Any:
        [event] = self.of(type)
        return event.payload

    def of(self, type: str) -> list[StreamEvent]:
        return [event for event in self.events if event.type == type]


@dataclass
class World:
    """One streaming task: functions by name, what was said and shown, and its memory."""

    functions: dict[str, Callable[[Mapping[str, JSON]], JSON]]
    store: MemoryStore = field(default_factory=MemoryStore)
    lines: list[str] = field(default_factory=list)
    shown: list[Any] = field(default_factory=list)

    async def call(self, name: str, given: Mapping[str, JSON]) -> JSON:
        return self.functions[name](given)

    async def report(self, document: JSON) -> None:
        self.shown.append(document)

    def stream(
        self, task: RealtimeTask, source: Source, *, attempts: int = 1, are_events: bool = False
    ) -> Stream:
        subscribers = Subscribers(task.subscriptions, self.call, self.store.holds, self.lines.append)
        handling = Handling(
            handler=task.data_handler or task.function,
            error_handler=task.error_handler,
            takes_single=task.batch_size == 1,
            are_events=are_events,
            retry=RetryPolicy(attempts, backoff=Backoff.FIXED, initial_ms=1, jitter=0.0),
            subscribers=subscribers,
            call=self.call,
            log=self.lines.append,
        )
        teller = self.teller(replace(task, subscriptions=()) if are_events else task, source)
        return Stream(task, source, self.store, handling, teller, self.report, self.lines.append)

    def teller(self, task: RealtimeTask, source: Source) -> Teller:
        told = Subscribers(task.subscriptions, self.call, self.store.holds, self.lines.append)
        return Teller(Names(5, task.name, 3, 1), source, self.store, told)


def counting(most: int, *, forever: bool = False) -> Collector:
    """A replayable source of 1, 2, 3 … whose offset is the number itself."""

    async def numbers(offset: JSON) -> AsyncIterator[int]:
        for number in range((offset or 0) + 1, most + 1):
            yield number
        if forever:
            await asyncio.Event().wait()

    return Collector("numbers", numbers, replayable=True)


def failing(message: str = "no", *, is_permanent: bool = False) -> CallFailed:
    return CallFailed(message, is_permanent=is_permanent)


class OpenNetwork:
    """Everything may be reached."""

    is_guarded = False
    body_bytes = 100_000

    async def addresses(self, host: str, port: int, /) -> list[str]:
        return [host]

    def transport(self) -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(trust_env=False)


class ClosedNetwork(OpenNetwork):
    """Nothing may be."""

    is_guarded = True

    async def addresses(self, host: str, port: int, /) -> list[str]:
        raise OSError(f"{host} is not a public address")


def taking(into: list[Any]) -> dict[str, Callable[[Given], JSON]]:
    """A function `take` that remembers the batches it got."""
    return {"take": lambda given: into.append(given["data"])}


async def stopped(stream: Stream, running: asyncio.Task[Any]) -> Any:
    stream.stop()
    return await asyncio.wait_for(running, 10)
