"""Says what happens to a stream: to subscribers, and to the history of its run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.model.json import JSON
from engine.streams import events
from engine.streams.buffer import Buffer, Entry
from engine.streams.events import PRESSURE, EventType, Gap, StreamEvent, StreamState
from engine.streams.ports import StreamStore
from engine.streams.sources import Source
from engine.streams.subscribers import Subscribers

LASTING_SECONDS = 60.0  # a connection that stands as long does not flap, nor one that is lost as long
_PRESSURE_SECONDS = 1.0  # between rows about backpressure: a small buffer fills and empties all the time


@dataclass(frozen=True, slots=True)
class Names:
    """Which stream this is."""

    task_id: int
    task_name: str
    run_id: int
    attempt: int


class _Flapping:
    """Which losses of a connection the history is told of, along with what follows from them: those numbered
    1, 2, 4, 8 … since the connection lasted."""

    def __init__(self) -> None:
        self._losses = 0
        self._changed_at = time.monotonic()
        self.is_told = True

    @property
    def has_lasted(self) -> bool:
        """Whether the connection is as it is, there or lost, for a while."""
        return time.monotonic() - self._changed_at >= LASTING_SECONDS

    def lost(self) -> None:
        self._losses = 1 if self.has_lasted else self._losses + 1
        self.is_told = _is_power_of_two(self._losses)
        self._changed_at = time.monotonic()

    def connected(self) -> None:
        self._changed_at = time.monotonic()


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


class Teller:
    """Knows the state of the stream, and changes it. `is_connected`: nothing that comes is missed."""

    def __init__(self, names: Names, source: Source, store: StreamStore, subscribers: Subscribers) -> None:
        self._names = names
        self._source = source
        self._store = store
        self._subscribers = subscribers
        self._pressure_at = -_PRESSURE_SECONDS
        self._tells_pressure = False
        self._flapping = _Flapping()
        self._untold: StreamEvent | None = None  # how the connection is, if the history does not know
        self._gap: Gap | None = None  # around all that the history was not told of
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
        self._flapping.connected()
        self.is_connected = True
        await self._connection(EventType.CONNECTION_ESTABLISHED, retries, state=StreamState.RUNNING)

    async def restored(self, retries: int, gap: Gap | None) -> None:
        """A gap in the history covers those before it that are not there."""
        self._flapping.connected()
        self.is_connected = True
        if gap is not None:
            self._gap = Gap(gap.since if self._gap is None else self._gap.since, gap.until)
        await self._connection(EventType.CONNECTION_RESTORED, retries, gap=gap, state=StreamState.RUNNING)

    async def lost(self, retries: int, error: str) -> None:
        self._flapping.lost()
        self.is_connected = False
        await self._connection(EventType.CONNECTION_LOST, retries, error=error)

    async def settle(self, *, is_over: bool = False) -> None:
        """Once it has lasted, or the stream `is_over`, let the history know how the connection is."""
        event = self._untold
        if event is None or not (is_over or self._flapping.has_lasted):
            return
        self._untold, self._flapping.is_told = None, True
        await self._keep(event)

    async def reconnecting(self, retries: int, error: str) -> None:
        """The history has the retries 1, 2, 4, 8 …: there may be no end to them."""
        await self._connection(
            EventType.CONNECTION_RECONNECTING,
            retries,
            error=error,
            state=StreamState.RECONNECTING,
            is_kept=_is_power_of_two(retries),
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
        is_told = self._flapping.is_told
        event = await self._tell(
            type, payload, state=state, gaps=int(gap is not None), is_kept=is_told and is_kept
        )
        if type is not EventType.CONNECTION_RECONNECTING:
            self._untold = None if is_told else event

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
    ) -> StreamEvent:
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
            await self._keep(event, state=state, gaps=gaps)
        elif type is EventType.CONNECTION_RESTORED:  # its state and its gap count all the same
            await self._store.tell([], state=state, gaps=gaps, is_connected=self.is_connected)
        await self._subscribers.tell(event)
        return event

    async def _keep(self, event: StreamEvent, *, state: StreamState | None = None, gaps: int = 0) -> None:
        """Add it to the history."""
        gap = self._gap if event.type == EventType.CONNECTION_RESTORED else None
        if gap is not None:
            event = replace(event, payload={**event.payload, "gap": gap.to_json()})
            self._gap = None
        await self._store.tell([event], state=state, gaps=gaps, is_connected=self.is_connected)

    def _is_due(self, type: EventType) -> bool:
        """Of backpressure, what is relieved has been told as triggered."""
        if type is EventType.BACKPRESSURE_TRIGGERED:
            now = time.monotonic()
            self._tells_pressure = now - self._pressure_at >= _PRESSURE_SECONDS
            self._pressure_at = now if self._tells_pressure else self._pressure_at
        return self._tells_pressure or type not in PRESSURE
