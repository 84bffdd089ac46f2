"""The side of a stream that reads: from the source into the buffer, and again after each lost connection."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec

from engine.errors import InvalidInput, LeaseLost, PermanentError
from engine.model.json import storable_text
from engine.model.realtime import Reconnect
from engine.streams.buffer import Buffer, Entry
from engine.streams.events import Gap
from engine.streams.metrics import Metrics
from engine.streams.ports import Standing, StreamStore
from engine.streams.sources import Connected, Item, Source, storable
from engine.streams.telling import Teller

_PAGE = 100
_MAX_ERROR = 500


class SourceLost(Exception):
    """The source failed once more than it may."""


class Reader:
    """Items of a source that cannot be replayed are put as not ready: they have to be stored first."""

    def __init__(
        self,
        source: Source,
        buffer: Buffer,
        store: StreamStore,
        teller: Teller,
        metrics: Metrics,
        reconnect: Reconnect,
        standing: Standing,
    ) -> None:
        self._source = source
        self._buffer = buffer
        self._store = store
        self._teller = teller
        self._metrics = metrics
        self._reconnect = reconnect
        self._offset = standing.offset
        self._number = standing.sequence
        # What came while no worker held the stream was not seen.
        self._lost_at: datetime | None = None if source.replayable else standing.seen_at
        self._has_been_connected = False
        self._connected_at: float | None = None  # this connection, if it stands
        self._has_read = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.dropped = 0  # since the last commit

    def pause(self) -> None:
        """Take nothing from the source until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    async def run(self) -> None:
        """Read until the source is over. Raises `SourceLost`, or what no reconnecting will mend."""
        try:
            if not self._source.replayable:
                await self._read_stored()
            await self._read()
        finally:
            self._buffer.close()

    async def _read_stored(self) -> None:
        """What an earlier attempt stored and did not come to."""
        after = self._number
        while found := await self._store.waiting(after, _PAGE):
            await self._flowing.wait()
            for number, payload in found:
                item = Item(payload)
                await self._buffer.put(Entry(item, number, _size(item)), is_kept=True)
                after = number

    async def _read(self) -> None:
        retries = 0
        while True:
            self._connected_at, self._has_read = None, False
            try:
                async with aclosing(self._source.items(self._offset)) as items:
                    async for got in items:
                        if isinstance(got, Connected):
                            self._connected_at = None if got.is_assumed else time.monotonic()
                            await self._connected(retries)
                        else:
                            await self._accept(got)
                return
            except (LeaseLost, PermanentError, InvalidInput):
                raise
            except (Exception, asyncio.CancelledError) as error:  # a source can raise anything
                if isinstance(error, asyncio.CancelledError) and _are_cancelled():
                    raise
                retries = 1 if self._was_good() else retries + 1
                await self._lost(error, retries)
            await asyncio.sleep(delay_seconds(self._reconnect, retries))

    def _was_good(self) -> bool:
        """One that stood for a while was a good one, although it was silent. One that took as long to fail
        was not: it would be tried for ever, whatever `max_attempts` says."""
        if self._has_read or self._connected_at is None:
            return self._has_read
        return time.monotonic() - self._connected_at > self._reconnect.max_ms / 1000

    async def _connected(self, retries: int) -> None:
        lost_at, self._lost_at = self._lost_at, None
        if lost_at is None:
            await self._teller.connected(retries)
        else:
            gap = None if self._source.replayable else Gap(lost_at, datetime.now(UTC))
            self._metrics.gaps += gap is not None
            await self._teller.restored(retries, gap)
        self._has_been_connected = True

    async def _lost(self, error: BaseException, retries: int) -> None:
        """Raises `SourceLost` if that was once too often."""
        message = storable_text(f"{type(error).__name__}: {error}"[:_MAX_ERROR])
        if self._has_been_connected and self._lost_at is None:
            self._lost_at = datetime.now(UTC)
            await self._teller.lost(retries, message)
        most = self._reconnect.max_attempts
        if not self._reconnect.enabled or (most and retries > most):
            raise SourceLost(f"source {self._source.name}: {message}") from error
        self._metrics.reconnects += 1
        await self._teller.reconnecting(retries, message)

    async def _accept(self, got: Item) -> None:
        await self._flowing.wait()
        item = got if got.number is not None else self._storable(got)
        entry = Entry(item, self._number_of(item), _size(item))
        self._offset = item.offset
        if await self._buffer.put(entry, is_ready=self._source.replayable, is_kept=item.number is not None):
            self._number = entry.number
            await self._teller.arrived(entry)
        else:
            self.dropped += 1
            self._metrics.dropped += 1
            await asyncio.sleep(0)  # a source that never waits must not keep everything else from running
        self._has_read = True
        await self._teller.pressure(self._buffer)

    def _storable(self, item: Item) -> Item:
        """Raises `InvalidInput`, whichever source it comes from."""
        name = self._source.name
        return Item(storable(name, item.payload), storable(name, item.offset))

    def _number_of(self, item: Item) -> int:
        """Of items that are to be stored, the store gives the number."""
        if item.number is not None:
            return item.number
        return self._number + 1 if self._source.replayable else 0


def _are_cancelled() -> bool:
    """Whether somebody cancels the one who reads: a source may raise as if it were so."""
    reading = asyncio.current_task()
    return reading is None or bool(reading.cancelling())


def _size(item: Item) -> int:
    return len(msgspec.json.encode(item.payload))


def delay_seconds(reconnect: Reconnect, retries: int) -> float:
    """The wait before connection attempt `retries` (from 1) after a loss."""
    wait_ms: float = reconnect.first_ms * reconnect.factor ** min(retries - 1, 64)
    wait_ms = min(wait_ms, reconnect.max_ms)
    return wait_ms * (1 + random.uniform(-reconnect.jitter, reconnect.jitter)) / 1000
