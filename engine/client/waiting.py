"""Waiting for what others do: looks that become rarer, up to a deadline (`time.monotonic`; `inf`: none)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_FIRST_SECONDS, _LONGEST_SECONDS, _GROWTH = 0.05, 0.5, 1.5


def deadline_in(seconds: float | None) -> float:
    return math.inf if seconds is None else time.monotonic() + seconds


def sleep(seconds: float, deadline: float) -> None:
    """At most until `deadline`. Raises `TimeoutError` if that has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    time.sleep(min(seconds, left))


def wait_until(is_over: Callable[[], bool], deadline: float) -> None:
    """Look until `is_over`, the last time at the deadline. Raises `TimeoutError` after it."""
    pause = _FIRST_SECONDS
    while not is_over():
        sleep(pause, deadline)
        pause = min(pause * _GROWTH, _LONGEST_SECONDS)
