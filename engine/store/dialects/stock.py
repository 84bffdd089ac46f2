"""Ids of a sequence that counts in blocks: drawn ahead, because each draw is a round trip."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from engine.store.schema import BLOCK_SIZE

_SOON_SECONDS = 0.1
_MOST_BLOCKS = 32


class Stock:
    """What one process has drawn and not used. Sequences do not roll back, so what a failed transaction
    took is gone, and what it drew beyond that serves the next one."""

    def __init__(self, name: str) -> None:
        self._size = BLOCK_SIZE[name]
        self._lock = threading.Lock()
        self._ids: list[int] = []  # descending: taken from the end
        self._blocks = 1
        self._drawn_at = 0.0

    def take(self, count: int) -> list[int]:
        """Up to `count` ids, ascending."""
        with self._lock:
            first = max(0, len(self._ids) - count)
            taken = self._ids[first:][::-1]
            del self._ids[first:]
        return taken

    def due(self, missing: int) -> int:
        """How many blocks to draw now. Ids tell about when their rows came, so a process that needs few
        keeps few; one that had to draw a moment ago draws twice as many this time."""
        with self._lock:
            now = time.monotonic()
            is_soon = now - self._drawn_at < _SOON_SECONDS
            self._blocks = min(2 * self._blocks, _MOST_BLOCKS) if is_soon else max(1, self._blocks // 2)
            self._drawn_at = now
            return max(-(-missing // self._size), self._blocks)

    def add(self, firsts: Iterable[int]) -> None:
        """Put blocks on stock."""
        with self._lock:
            drawn = (first + place for first in firsts for place in range(self._size))
            self._ids = sorted([*self._ids, *drawn], reverse=True)
