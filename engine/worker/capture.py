"""What a task prints or logs in our own process goes to the task's log, besides where it went before."""

from __future__ import annotations

import codecs
import io
import logging
import sys
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, BinaryIO, TextIO

from engine.functions.log_handler import LogHandler

Write = Callable[[str, str], None]  # (stream, text)

current: ContextVar[Write | None] = ContextVar("engine_task_log", default=None)
# The beginning of a character whose other bytes are still to be written.
_rests = {name: ContextVar(f"engine_{name}_rest", default=b"") for name in ("stdout", "stderr")}


class _Tee:
    """A text stream that also tells the current task's log. Everything else is the original's."""

    def __init__(self, original: TextIO, stream: str) -> None:
        self._original = original
        self._stream = stream
        if hasattr(original, "buffer"):
            self.buffer = _Bytes(original.buffer, stream)

    def write(self, text: str) -> int:
        write = current.get()
        if write is not None:
            write(self._stream, text)
            return len(text)
        return self._original.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._original, name)


class _Bytes(io.RawIOBase):
    """The `buffer` of a tee. Nothing is closed with it: wrappers close what they wrap when they go."""

    def __init__(self, original: BinaryIO, stream: str) -> None:
        self._original = original
        self._stream = stream

    def write(self, content: Any) -> int:
        write = current.get()
        if write is None:
            return self._original.write(content)
        rest, added = _rests[self._stream], bytes(memoryview(content))
        unread = rest.get() + added
        text, used = codecs.utf_8_decode(unread, "replace", False)
        rest.set(unread[used:])
        write(self._stream, text)
        return len(added)

    def writable(self) -> bool:
        return True

    def flush(self) -> None:
        self._original.flush()

    def isatty(self) -> bool:
        return self._original.isatty()

    def fileno(self) -> int:
        return self._original.fileno()

    def close(self) -> None: ...


def _write(stream: str, text: str) -> None:
    write = current.get()
    if write is not None:
        write(stream, text)


def _is_of_a_task(record: logging.LogRecord) -> bool:
    return current.get() is not None and not record.name.startswith("engine.")


_handler = LogHandler(_write)
_handler.addFilter(_is_of_a_task)
_users = 0


def install() -> None:
    """Begin to capture; counted, so that several workers of one process can each ask for it."""
    global _users
    _users += 1
    if _users == 1:
        # They quack like TextIO.
        sys.stdout, sys.stderr = _Tee(sys.stdout, "stdout"), _Tee(sys.stderr, "stderr")
        logging.getLogger().addHandler(_handler)


def uninstall() -> None:
    global _users
    _users -= 1
    if _users == 0:
        logging.getLogger().removeHandler(_handler)
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Tee):
                setattr(sys, name, stream._original)
