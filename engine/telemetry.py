"""Named events with fields. Logs are one JSON object per line; nothing builds sentences from values."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

_logger = logging.getLogger("engine")


def emit(event: str, *, level: str = "info", **fields: Any) -> None:
    """Log `event` with `fields`. Warnings are for something a person should do."""
    number = logging.getLevelNamesMapping()[level.upper()]
    if _logger.isEnabledFor(number):
        _logger.log(number, event, extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """`time`, `level`, `msg`, then the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z"),
            "level": record.levelname,
            "msg": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


def configure_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Write the engine's events as JSON lines to `stream` (standard output); other loggers stay alone."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter())
    _logger.handlers[:] = [handler]
    _logger.setLevel(level.upper())
    _logger.propagate = False
