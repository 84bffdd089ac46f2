"""What can be set on a worker. Seconds everywhere."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`queues` empty means every queue. A worker that shows no beat for `lease_seconds` is dead to others."""

    concurrency: int = 10
    queues: tuple[str, ...] = ()
    name: str | None = None
    lease_seconds: float = 20.0
    beat_seconds: float = 5.0
    sweep_seconds: float = 2.0
    poll_seconds: float = 1.0
    grace_seconds: float = 15.0
    retention_seconds: float = 30 * 86_400.0
    capture_output: bool = True
