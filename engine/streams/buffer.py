"""The bounded buffer between the one who reads and the one who makes batches, on one event loop."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

from engine.model.realtime import Backpressure, Pressure
from engine.streams.events import EventType
from engine.streams.sources import Item

MAX_THROTTLE_SECONDS = 0.1  # before an item is taken into a buffer that is all but full
MAX_BYTES = 64 * 1024 * 1024  # of the items in a buffer; it always has room for one


@dataclass(slots=True)
class Entry:
    """An item in the buffer. `number` is its place in the stream, 0 until it is known; `size` its bytes."""

    item: Item
    number: int = 0
    size: int = 0
    came_at: float = field(default_factory=time.monotonic)


class Buffer:
    """First in, first out. Entries at its front are ready to be taken; those behind wait to be stored.

    Full, it drops what comes (`drop`), or has whoever puts it wait for room (`block`, `throttle`); `throttle`
    slows down from the threshold on.
    """

    def __init__(self, size: int, backpressure: Backpressure) -> None:
        self._size = size
        self._backpressure = backpressure
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._ready = 0
        self._is_short = False  # of room, since the last entries were taken
        self._is_pressed = False
        self._is_closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ready(self) -> int:
        return self._ready

    @property
    def usage(self) -> float:
        """The share of its room, in items or in bytes, that is taken."""
        return max(len(self._entries) / self._size, self._bytes / MAX_BYTES)

    @property
    def backpressure(self) -> Backpressure:
        return self._backpressure

    @property
    def is_over(self) -> bool:
        """Nothing is in it, and nothing will come."""
        return self._is_closed and not self._entries

    async def put(self, entry: Entry, *, is_ready: bool = True, is_kept: bool = False) -> bool:
        """Whether it was taken. What `is_kept` in the store already is never dropped, but waits for room."""
        action = self._backpressure.action
        if action is Pressure.THROTTLE and (seconds := self._throttle_seconds()):
            await asyncio.sleep(seconds)
        if not self._has_room(entry):
            if action is Pressure.DROP and not is_kept:
                return False
            await self._until(lambda: self._has_room(entry))
        self._entries.append(entry)
        self._bytes += entry.size
        self._ready += is_ready
        self._changed.set()
        return True

    def _has_room(self, entry: Entry) -> bool:
        """If not, whoever waits for a batch gets what there is: in bytes it may be full before it has one."""
        fits = len(self._entries) < self._size and self._bytes + entry.size <= MAX_BYTES
        has_room = fits or not self._entries
        if not has_room and not self._is_short:
            self._is_short = True
            self._changed.set()
        return has_room

    def take(self, limit: int) -> list[Entry]:
        """Up to `limit` entries that are ready, oldest first."""
        taken = [self._entries.popleft() for _ in range(min(limit, self._ready))]
        self._ready -= len(taken)
        self._is_short = self._is_short and not taken
        self._bytes -= sum(entry.size for entry in taken)
        self._changed.set()
        return taken

    async def filled(self, count: int) -> None:
        """Return when `count` entries are ready, or some while there is no room for more; or, once it is
        closed, whatever is left."""
        await self._until(lambda: self._ready >= count or self._is_all_for_now)

    @property
    def _is_all_for_now(self) -> bool:
        if self._ready:
            return self._is_short or self._is_closed
        return self._is_closed and not self._entries

    async def unready(self, limit: int, most_bytes: int) -> list[Entry]:
        """The first entries that are not ready, once there are some; none when it is closed without any."""
        await self._until(lambda: len(self._entries) > self._ready or self._is_closed)
        found: list[Entry] = []
        for entry in islice(self._entries, self._ready, self._ready + limit):
            most_bytes -= entry.size
            if found and most_bytes < 0:
                break
            found.append(entry)
        return found

    def make_ready(self, count: int) -> None:
        """The first `count` entries that were not ready are stored."""
        self._ready += count
        self._changed.set()

    def close(self) -> None:
        """Nothing comes any more."""
        self._is_closed = True
        self._changed.set()

    def crossed(self) -> EventType | None:
        """What has happened to the pressure since the last look; each crossing is told once."""
        threshold = self._backpressure.threshold
        if not self._is_pressed and self.usage >= threshold:
            self._is_pressed = True
            return EventType.BACKPRESSURE_TRIGGERED
        if self._is_pressed and self.usage < threshold / 2:
            self._is_pressed = False
            return EventType.BACKPRESSURE_RELIEVED
        return None

    def _throttle_seconds(self) -> float:
        """Nothing below the threshold, from there on more the fuller it is."""
        over = self.usage - self._backpressure.threshold
        if over < 0:
            return 0.0
        span = 1 - self._backpressure.threshold
        return MAX_THROTTLE_SECONDS * (min(over / span, 1.0) if span else 1.0)

    async def _until(self, is_true: Callable[[], bool]) -> None:
        while not is_true():
            self._changed.clear()
            await self._changed.wait()
