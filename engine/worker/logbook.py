"""Log lines of running tasks: gathered from any thread, capped per attempt, written in batches."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from engine.model.json import storable_text
from engine.model.records import Lease

MAX_LINE = 8 * 1024  # characters; a longer line is cut into several
MAX_LINES = 10_000  # per attempt
MAX_CHARACTERS = 1024 * 1024  # per attempt

Line = tuple[Lease, int, datetime, str, str]


class Logbook:
    """Lines that are not in the database yet."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._lock = threading.Lock()

    def open(self, lease: Lease) -> AttemptLog:
        return AttemptLog(self, lease)

    def add(self, line: Line) -> None:
        with self._lock:
            self._lines.append(line)

    def take(self) -> list[Line]:
        """All gathered lines; they are the caller's now."""
        with self._lock:
            lines, self._lines = self._lines, []
        return lines


class AttemptLog:
    """The log of one attempt. Text arrives in any pieces and leaves in lines."""

    __slots__ = ("_book", "_characters", "_lease", "_lock", "_number", "_partial")

    def __init__(self, book: Logbook, lease: Lease) -> None:
        self._book = book
        self._lease = lease
        self._partial: dict[str, str] = {}
        self._number = 0
        self._characters = 0
        self._lock = threading.Lock()

    def write(self, stream: str, text: str) -> None:
        with self._lock:
            *lines, rest = (self._partial.get(stream, "") + text).split("\n")
            while len(rest) > MAX_LINE:
                lines.append(rest[:MAX_LINE])
                rest = rest[MAX_LINE:]
            self._partial[stream] = rest
            for line in lines:
                self._add(stream, line.removesuffix("\r"))

    def close(self) -> None:
        """Write out what has no line end yet."""
        if not self._partial:  # it has written nothing
            return
        with self._lock:
            for stream, rest in self._partial.items():
                if rest:
                    self._add(stream, rest)
            self._partial.clear()

    def _add(self, stream: str, line: str) -> None:
        if self._number > MAX_LINES or self._characters > MAX_CHARACTERS:
            return
        for start in range(0, max(len(line), 1), MAX_LINE):
            piece = line[start : start + MAX_LINE]
            self._number += 1
            self._characters += len(piece) + 1
            if self._number > MAX_LINES or self._characters > MAX_CHARACTERS:
                self._emit("log", "[log is full: further output of this attempt is not kept]")
                self._number = MAX_LINES + 1
                return
            self._emit(stream, piece)

    def _emit(self, stream: str, text: str) -> None:
        self._book.add(
            (self._lease, self._number, datetime.now(UTC), storable_text(stream), storable_text(text))
        )
