"""Whose turn it is to write to a SQLite file that several processes share.

SQLite's own busy loop is unfair: one of four writers got a single transaction in three seconds. The
kernel wakes all who wait for a file lock at once, and drops the lock of a process that dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
from types import TracebackType

# A process that was stopped by a signal inside its transaction keeps its turn until it goes on or dies.
_WAIT_SECONDS = 10.0


class Turn:
    """A lock across threads and processes, on a side file and never on the database file itself.

    Entering raises `TimeoutError` (an OSError) if nobody gave way for ten seconds.
    """

    def __init__(self, database: str, wait_seconds: float = _WAIT_SECONDS) -> None:
        self._descriptor = os.open(f"{database}.turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._mutex = threading.Lock()
        self._wait_seconds = wait_seconds
        self._waiter: _Waiter | None = None

    def __enter__(self) -> None:
        if not self._mutex.acquire(timeout=self._wait_seconds):
            raise self._timeout()
        try:
            self._take()
        except BaseException:
            self._mutex.release()
            raise

    def _take(self) -> None:
        if self._waiter is None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._waiter = _Waiter(self._descriptor)
            else:
                return
        if not self._waiter.take(self._wait_seconds):
            raise self._timeout()
        self._waiter = None

    def _timeout(self) -> TimeoutError:
        return TimeoutError(
            f"another process has been writing for {self._wait_seconds:g} s; was it stopped by a signal?"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._mutex.release()

    def close(self) -> None:
        if self._waiter is None:  # otherwise it ends with the process
            os.close(self._descriptor)


class _Waiter:
    """A thread that waits for the lock, because nothing can interrupt that wait.

    It outlives a caller that gave up, gives the lock back if it comes then, and serves the next caller.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._is_wanted = True
        self._is_held = False
        threading.Thread(target=self._run, name="engine-turn", daemon=True).start()

    def take(self, seconds: float) -> bool:
        with self._changed:
            self._is_wanted = True
            self._changed.notify()
            self._is_wanted = self._changed.wait_for(lambda: self._is_held, seconds)
            return self._is_held

    def _run(self) -> None:
        while True:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            with self._changed:
                if self._is_wanted:
                    self._is_held = True
                    self._changed.notify()
                    return
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
                self._changed.wait_for(lambda: self._is_wanted)
