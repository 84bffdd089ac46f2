"""What a stream has done: the contract's metrics, as its progress document shows them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from engine.model.json import JSON


@dataclass(slots=True)
class Metrics:
    """Counts are of the task's whole life, whichever worker it ran on; times are of this attempt."""

    processed: int = 0
    failed: int = 0
    dropped: int = 0
    batches: int = 0
    gaps: int = 0
    reconnects: int = 0
    _handled: int = 0
    _latency_seconds: float = 0.0
    _began: float = field(default_factory=time.monotonic)

    def handled(self, count: int, latency_seconds: float) -> None:
        """`count` items were dealt with; `latency_seconds` is the sum of their times since they came."""
        self._handled += count
        self._latency_seconds += latency_seconds

    @property
    def average_latency_ms(self) -> float:
        """From the arrival of an item to the commit of its batch."""
        return 1000 * self._latency_seconds / self._handled if self._handled else 0.0

    def document(self, state: str, buffered: int, usage: float) -> dict[str, JSON]:
        is_active = state in ("running", "paused", "reconnecting")
        return {
            "state": state,
            "total_events": self.processed + self.failed + self.dropped + buffered,
            "processed_events": self.processed,
            "failed_events": self.failed,
            "dropped_events": self.dropped,
            "active_tasks": int(is_active),
            "buffer_usage": round(usage, 4),
            "average_latency_ms": round(self.average_latency_ms, 3),
            "uptime_seconds": round(time.monotonic() - self._began, 3),
            "batches": self.batches,
            "gaps": self.gaps,
            "reconnects": self.reconnects,
        }
