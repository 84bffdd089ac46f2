"""Log lines of running tasks: gathered from any thread, capped per attempt, written in batches."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

from engine.model.json import storable_text
from engine.model.records import Holder, Lease

MAX_LINE = 8 * 1024  # characters; a longer line is cut into several
MAX_LINES = 10_000  # per attempt
MAX_CHARACTERS = 1024 * 1024  # per attempt
MAX_WAITING = 32 * 1024 * 1024  # characters of all attempts, while the database is away or too slow
_LINE_SIZE = 256  # that a line counts besides its text: the objects that hold it

# Whose it is, its number, when it came, stream and text. Not the lease: that holds the task's parameters.
Line = tuple[Holder, int, datetime, str, str]


class Logbook:
    """Lines that are not in the database yet, up to `MAX_WAITING`. Only one caller removes them."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._size = 0
        self._lost = 0
        # Whatever runs between two of our steps, such as a signal handler, may print as well.
        self._lock = threading.RLock()

    def open(self, lease: Lease) -> AttemptLog:
        return AttemptLog(self, lease)

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def has_room(self) -> bool:
        return self._size < MAX_WAITING

    def add(self, line: Line) -> None:
        with self._lock:
            self._lines.append(line)
            self._size += _size(line)

    def first(self, limit: int) -> list[Line]:
        with self._lock:
            return self._lines[:limit]

    def remove(self, count: int) -> None:
        """Remove the first lines."""
        with self._lock:
            self._size -= sum(map(_size, self._lines[:count]))
            del self._lines[:count]

    def lose(self) -> None:
        """Count a line that there was no room for."""
        with self._lock:
            self._lost += 1

    def take_lost(self) -> int:
        """How many lines were lost since the last call."""
        with self._lock:
            lost, self._lost = self._lost, 0
        return lost


def _size(line: Line) -> int:
    return _LINE_SIZE + len(line[-1])


class AttemptLog:
    """The log of one attempt. Text arrives in any pieces and leaves in lines."""

    __slots__ = ("_book", "_characters", "_lease", "_lock", "_lost", "_number", "_partial")

    def __init__(self, book: Logbook, lease: Lease) -> None:
        self._book = book
        self._lease = lease
        self._partial: dict[str, str] = {}
        self._number = 0
        self._characters = 0
        self._lost: list[int] = []  # numbers of lines that there was no room for
        self._lock = threading.RLock()

    def write(self, stream: str, text: str) -> None:
        with self._lock:
            *lines, rest = (self._partial.get(stream, "") + text).split("\n")
            rest = _on_screen(rest)
            while len(rest) > MAX_LINE:
                lines.append(rest[:MAX_LINE])
                rest = rest[MAX_LINE:]
            self._partial[stream] = rest
            for line in lines:
                self._add(stream, _on_screen(line).rstrip("\r"))

    def close(self) -> None:
        """Write out what has no line end yet."""
        if not self._partial:  # it has written nothing
            return
        with self._lock:
            for stream, rest in self._partial.items():
                if rest:
                    self._add(stream, rest.rstrip("\r"))
            self._partial.clear()
            self._tell_lost()

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
        if not self._book.has_room:
            self._lost.append(self._number)
            self._book.lose()
            return
        self._tell_lost()
        self._add_to_book(self._number, stream, text)

    def _tell_lost(self) -> None:
        """In the place of the first of them; also if there is no room for it."""
        if self._lost:
            text = f"[{len(self._lost)} lines lost: they could not be stored in time]"
            self._add_to_book(self._lost[0], "log", text)
            self._lost.clear()

    def _add_to_book(self, number: int, stream: str, text: str) -> None:
        at = datetime.now(UTC)
        self._book.add((self._lease.holder, number, at, storable_text(stream), storable_text(text)))


def _on_screen(line: str) -> str:
    """What a terminal has left of it: a carriage return begins the line again, as progress bars do."""
    return line[line.rstrip("\r").rfind("\r") + 1 :]
