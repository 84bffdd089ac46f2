"""Whose turn it is to write to a SQLite file that several processes share.

SQLite's own busy loop is unfair: one of four writers got a single transaction in three seconds. The
kernel serves waiters for a file lock in order, and drops the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
from types import TracebackType


class Turn:
    """A lock across threads and processes, on a side file and never on the database file itself."""

    def __init__(self, database: str) -> None:
        self._descriptor = os.open(f"{database}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mutex = threading.Lock()

    def __enter__(self) -> None:
        self._mutex.acquire()
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._mutex.release()

    def close(self) -> None:
        os.close(self._descriptor)
