"""Records of `logging` in the log of an attempt, with their tracebacks, as logging itself formats them."""

from __future__ import annotations

import logging
from collections.abc import Callable


class LogHandler(logging.Handler):
    """Hands each record to `write(stream, text)`."""

    def __init__(self, write: Callable[[str, str], None]) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(logging.Formatter("{levelname} {name}: {message}", style="{"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write("log", f"{self.format(record)}\n")
        except Exception:  # wrong arguments: logging reports them, and never raises into the caller
            self.handleError(record)
