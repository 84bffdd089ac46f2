"""Postgres tells of work: LISTEN on a connection of its own. Only a hint: whoever waits polls as well."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

CHANNEL = "task_engine"


class Listener:
    """A thread with a connection of its own in LISTEN; reconnects for ever, hinting after each gap."""

    def __init__(self, arguments: dict[str, Any], on_hint: Callable[[str], None]) -> None:
        self._arguments = arguments  # of psycopg.connect
        self._on_hint = on_hint
        self._stop = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="engine-listen", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(**self._arguments, autocommit=True) as connection:
                    self._connection = connection
                    connection.execute(f"LISTEN {CHANNEL}")
                    self._on_hint("")  # whatever was missed while not connected
                    while not self._stop.is_set():
                        for notification in connection.notifies(timeout=1.0):
                            self._on_hint(notification.payload)
            except (psycopg.Error, OSError):
                self._stop.wait(1.0)

    def close(self) -> None:
        self._stop.set()
        connection = self._connection
        if connection is not None:
            with suppress(psycopg.Error, OSError):
                connection.cancel_safe(timeout=1.0)
        self._thread.join(timeout=3.0)
