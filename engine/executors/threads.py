"""Threads for functions that block. A thread cannot be killed, so one that goes on too long is given up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

Work = tuple[Future[Any], Callable[[], Any]]


class Threads:
    """At most `most` threads, started when they are needed.

    They are daemons: unlike those of the standard library's pool, one that never ends does not keep the
    program from ending.
    """

    def __init__(self, most: int, name: str = "function") -> None:
        self._most = most
        self._name = name
        self._changed = threading.Condition()
        self._waiting: deque[Work] = deque()
        self._threads = 0
        self._idle = 0
        self._overdue = 0
        self._is_closed = False

    def start(self, work: Callable[[], Any]) -> Future[Any]:
        """Have `work` done by a thread as soon as one is free, unless the future is cancelled before."""
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((future, work))
            if self._idle >= len(self._waiting):
                self._changed.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._live, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def give_up(self, future: Future[Any]) -> None:
        """Nobody waits for `future` any more. If its work has begun, its thread is taken until it ends."""
        if future.cancel():
            return
        with self._changed:
            self._overdue += 1
        future.add_done_callback(self._caught_up)

    @property
    def overdue(self) -> int:
        """Threads that still do what was given up."""
        return self._overdue

    def close(self) -> None:
        """Let idle threads end, the others when they are done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _caught_up(self, future: Future[Any]) -> None:
        with self._changed:
            self._overdue -= 1

    def _live(self) -> None:
        while (item := self._next()) is not None:
            future, work = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # carried over to whoever waits
                future.set_exception(error)
            del item, future, work  # while idle, it would keep what the work held

    def _next(self) -> Work | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None
