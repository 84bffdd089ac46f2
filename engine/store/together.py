"""Calls that come at the same time, in one transaction: they share its statements and its commit."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any

from engine.errors import StoreUnavailable

_MAX_CALLS = 256  # in one transaction
_MANY = 4  # calls at a time, from which on it is worth to wait for more
_GATHER_SECONDS = 0.0003

Work = Callable[..., Sequence[Any]]  # (transaction, items) → one answer, or exception, for each item


class Together:
    """Runs one kind of work. A call that finds nothing under way starts at once; those that come
    meanwhile wait for its commit and then go together."""

    def __init__(
        self, work: Work, run: Callable[[Work, Sequence[Any]], Sequence[Any]], pool: Executor
    ) -> None:
        self._work = work
        self._run = run
        self._pool = pool
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Any, Future[Any]]] = deque()
        self._is_running = False
        self._last = 0  # calls in the last transaction

    def call(self, item: Any) -> Future[Any]:
        """From any thread. Raises what `work` gave for this item, or what befell the transaction."""
        answer: Future[Any] = Future()
        with self._lock:
            self._waiting.append((item, answer))
            starts, self._is_running = not self._is_running, True
        if starts:
            self._pool.submit(self._go)
        return answer

    def _go(self) -> None:
        if self._last + len(self._waiting) >= _MANY:
            # Those just answered are about to call again. Without a pause two halves of them took turns: a
            # third more commits, and some answers waited 50 ms for the interpreter.
            time.sleep(_GATHER_SECONDS)
        with self._lock:
            calls = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_CALLS))]
        self._last = len(calls)
        try:
            self._perform(calls)
        finally:
            with self._lock:
                self._is_running = bool(self._waiting)
            if self._is_running:  # behind whoever else waits for a thread
                self._pool.submit(self._go)

    def _perform(self, calls: Sequence[tuple[Any, Future[Any]]]) -> None:
        try:
            answers = self._run(self._work, [item for item, _ in calls])
        except StoreUnavailable as error:  # nobody knows whether it was committed
            answers = [error] * len(calls)
        except BaseException as error:
            if len(calls) > 1:  # nothing was written: whoever is at fault fails alone
                for call in calls:
                    self._perform([call])
                return
            answers = [error]
        for (_, future), answer in zip(calls, answers, strict=True):
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)
