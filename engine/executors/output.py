"""What a process prints: the first part is kept, all of it is drained, lines are passed on as they come."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from engine.executors.text import readable, storable

MAX_LINES = 10_000  # passed on per stream; `yes` would otherwise fill the log table
MAX_LINE = 8 * 1024  # characters; a longer line is passed on in pieces


class Capture:
    """One output stream of one process."""

    def __init__(self, stream: str, limit: int, log: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._limit = limit
        self._log = log
        self._kept = bytearray()
        self._dropped = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._line = ""
        self._lines = 0

    def feed(self, chunk: bytes) -> None:
        piece = chunk[: self._limit - len(self._kept)]
        self._kept += piece
        self._dropped += len(chunk) - len(piece)
        if piece and self._lines < MAX_LINES:
            self._pass_on(self._decoder.decode(piece))

    def finish(self) -> str:
        """Pass the last line on and return what was kept, with a mark if something was not."""
        if self._lines < MAX_LINES:
            self._pass_on(self._decoder.decode(b"", final=True), is_last=True)
        mark = f"\n[... truncated, {self._dropped} bytes dropped]" if self._dropped else ""
        if mark:
            self._log(self._stream, mark.strip())
        return readable(bytes(self._kept)) + mark

    def _pass_on(self, text: str, *, is_last: bool = False) -> None:
        *lines, self._line = (self._line + text).split("\n")
        if is_last or len(self._line) > MAX_LINE:
            lines, self._line = [*lines, self._line] if self._line else lines, ""
        for line in lines:
            for start in range(0, max(len(line), 1), MAX_LINE):
                self._lines += 1
                if self._lines > MAX_LINES:
                    return
                self._log(self._stream, storable(line[start : start + MAX_LINE].removesuffix("\r")))
