"""When a failed attempt is tried again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Backoff(StrEnum):
    FIXED = "fixed"
    EXPONENTIAL = "exponential"


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_attempts` counts failures; crashes of the worker have a budget of their own.

    The wait before try n+1 is `initial_ms` (fixed) or `initial_ms × factor^(n-1)`, at most `max_ms`,
    then spread by ± `jitter` (a fraction).
    """

    max_attempts: int = 1
    max_crashes: int = 3
    backoff: Backoff = Backoff.EXPONENTIAL
    initial_ms: int = 1_000
    factor: float = 2.0
    max_ms: int = 60_000
    jitter: float = 0.1

    def delay_ms(self, failures: int) -> int:
        """Milliseconds to wait after failure number `failures` (from 1)."""
        wait = float(self.initial_ms)
        if self.backoff is Backoff.EXPONENTIAL:
            # The exponent is capped before the power is taken: 2**1_000_000 would stall the worker.
            wait *= self.factor ** min(failures - 1, 64)
        wait = min(wait, float(self.max_ms))
        if self.jitter:
            wait *= 1 + random.uniform(-self.jitter, self.jitter)
        return max(0, int(wait))

    def to_json(self) -> dict[str, Any]:
        """Only what differs from the defaults, so that stored policies stay short."""
        values = {key: getattr(self, key) for key in self.__slots__}
        return {key: value for key, value in values.items() if value != getattr(ONCE, key)}

    @classmethod
    def from_json(cls, document: dict[str, Any] | None) -> RetryPolicy:
        if not document:
            return ONCE
        return cls(**{**document, "backoff": Backoff(document.get("backoff", Backoff.EXPONENTIAL))})


ONCE = RetryPolicy()  # the default: no second try, except after a crash
