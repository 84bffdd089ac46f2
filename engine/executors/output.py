"""What a process prints: the first part is kept and passed on as it comes, all of it is drained."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from engine.executors.text import readable


class Capture:
    """One output stream of one process."""

    def __init__(self, stream: str, limit: int, log: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._limit = limit
        self._log = log
        self._kept = bytearray()
        self._dropped = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, chunk: bytes) -> None:
        piece = chunk[: self._limit - len(self._kept)]
        self._kept += piece
        self._dropped += len(chunk) - len(piece)
        self._pass_on(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was kept, with a mark if something was not."""
        mark = f"\n[... truncated, {self._dropped} bytes dropped]" if self._dropped else ""
        self._pass_on(self._decoder.decode(b"", final=True) + mark)
        return readable(bytes(self._kept)) + mark

    def _pass_on(self, text: str) -> None:
        if text:
            self._log(self._stream, text)
