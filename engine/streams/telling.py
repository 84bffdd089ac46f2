"""Says what happens to a stream: to subscribers, and to the history of its run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from engine.model.json import JSON
from engine.streams import events
from engine.streams.buffer import Buffer, Entry
from engine.streams.events import PRESSURE, EventType, Gap, StreamEvent, StreamState
from engine.streams.ports import StreamStore
from engine.streams.sources import Source
from engine.streams.subscribers import Subscribers

_PRESSURE_SECONDS = 1.0  # between rows about backpressure: a small buffer fills and empties all the time


@dataclass(frozen=True, slots=True)
class Names:
    """Which stream this is."""

    task_id: int
    task_name: str
    run_id: int
    attempt: int


class Teller:
    """Knows the state of the stream, and changes it. `is_connected`: nothing that comes is missed."""

    def __init__(self, names: Names, source: Source, store: StreamStore, subscribers: Subscribers) -> None:
        self._names = names
        self._source = source
        self._store = store
        self._subscribers = subscribers
        self._pressure_at = -_PRESSURE_SECONDS
        self._tells_pressure = False
        self.state = StreamState.INITIALIZING
        self.is_connected = False

    # --- data: only for subscribers

    async def arrived(self, entry: Entry) -> None:
        if self._subscribers.wants(EventType.DATA_ARRIVED):
            await self._data(EventType.DATA_ARRIVED, [entry], None)

    async def batched(self, entries: Sequence[Entry], batch: int) -> None:
        if self._subscribers.wants(EventType.DATA_BATCHED):
            await self._data(EventType.DATA_BATCHED, entries, batch)

    async def processed(self, entries: Sequence[Entry], batch: int) -> None:
        if self._subscribers.wants(EventType.DATA_PROCESSED):
            await self._data(EventType.DATA_PROCESSED, entries, batch)

    async def _data(self, type: EventType, entries: Sequence[Entry], batch: int | None) -> None:
        items = [entry.item.payload for entry in entries]
        await self._tell(type, events.data(items, self._source.name, entries[0].number, batch))

    # --- the connection

    async def connected(self, retries: int) -> None:
        self.is_connected = True
        await self._connection(EventType.CONNECTION_ESTABLISHED, retries, state=StreamState.RUNNING)

    async def restored(self, retries: int, gap: Gap | None) -> None:
        self.is_connected = True
        await self._connection(EventType.CONNECTION_RESTORED, retries, gap=gap, state=StreamState.RUNNING)

    async def lost(self, retries: int, error: str) -> None:
        self.is_connected = False
        await self._connection(EventType.CONNECTION_LOST, retries, error=error)

    async def reconnecting(self, retries: int, error: str) -> None:
        """The history has the retries 1, 2, 4, 8 …: there may be no end to them."""
        await self._connection(
            EventType.CONNECTION_RECONNECTING,
            retries,
            error=error,
            state=StreamState.RECONNECTING,
            is_kept=retries & (retries - 1) == 0,
        )

    async def _connection(
        self,
        type: EventType,
        retries: int,
        *,
        error: str | None = None,
        gap: Gap | None = None,
        state: StreamState | None = None,
        is_kept: bool = True,
    ) -> None:
        source = self._source
        payload = events.connection(source.endpoint, source.protocol, retries, error, gap)
        if self.state in (StreamState.PAUSED, StreamState.STOPPING):  # which say more
            state = None
        await self._tell(type, payload, state=state, gaps=int(gap is not None), is_kept=is_kept)

    # --- the rest

    async def pressure(self, buffer: Buffer) -> None:
        type = buffer.crossed()
        if type is not None:
            pressure = buffer.backpressure
            payload = events.backpressure(
                buffer.usage, len(buffer), pressure.threshold, pressure.action.value
            )
            await self._tell(type, payload)

    async def failed(self, code: str, message: str, *, recoverable: bool) -> None:
        payload = events.failure(code, message, recoverable=recoverable)
        await self._tell(EventType.ERROR_OCCURRED, payload)

    async def failed_again(self, code: str, message: str) -> None:
        """As `failed`, where the history says so already: only subscribers are told."""
        payload = events.failure(code, message, recoverable=True)
        await self._tell(EventType.ERROR_OCCURRED, payload, is_kept=False)

    async def recovered(self, code: str) -> None:
        payload = events.failure(code, "", recoverable=True)
        await self._tell(EventType.ERROR_RECOVERED, payload)

    async def moved(self, type: EventType, state: StreamState, reason: str) -> None:
        """The task has come to `state`."""
        names = self._names
        payload = events.task(str(names.task_id), names.task_name, self.state, state, reason)
        await self._tell(type, payload, state=state)

    async def _tell(
        self,
        type: EventType,
        payload: JSON,
        *,
        state: StreamState | None = None,
        gaps: int = 0,
        is_kept: bool = True,
    ) -> None:
        if state is not None:
            self.state = state
        names = self._names
        event = StreamEvent(
            type=type,
            task_id=str(names.task_id),
            instance_id=str(names.run_id),
            payload=payload,
            metadata={"task_name": names.task_name, "attempt": names.attempt},
            correlation_id=f"{names.task_id}-{names.attempt}",
        )
        if is_kept and event.is_kept and self._is_due(type):
            await self._store.tell([event], state=state, gaps=gaps, is_connected=self.is_connected)
        await self._subscribers.tell(event)

    def _is_due(self, type: EventType) -> bool:
        """Of backpressure, what is relieved has been told as triggered."""
        if type is EventType.BACKPRESSURE_TRIGGERED:
            now = time.monotonic()
            self._tells_pressure = now - self._pressure_at >= _PRESSURE_SECONDS
            self._pressure_at = now if self._tells_pressure else self._pressure_at
        return self._tells_pressure or type not in PRESSURE
