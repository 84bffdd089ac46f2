"""What can be set on a worker. Seconds everywhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """`queues` empty means every queue. A worker that shows no beat for `lease_seconds` is dead to others.

    Raises `ConfigError` for what no worker could work with.
    """

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

    def __post_init__(self) -> None:
        check_count("concurrency", self.concurrency, least=1)
        object.__setattr__(self, "queues", queue_names(self.queues))
        for option in ("lease", "beat", "sweep", "poll", "grace", "retention"):
            _check_seconds(
                f"{option}_seconds", getattr(self, f"{option}_seconds"), may_be_0=option == "grace"
            )
        if self.beat_seconds * 2 > self.lease_seconds:
            raise ConfigError(
                f"beat_seconds is at most half of lease_seconds ({self.lease_seconds:g}), "
                f"got {self.beat_seconds:g}"
            )


def queue_names(given: Iterable[str]) -> tuple[str, ...]:
    """Raises `ConfigError`, for a single text as well: it would be a queue for each of its letters."""
    names = None if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if names is None or not all(isinstance(name, str) and name.strip() for name in names):
        raise ConfigError(f"queues is a list of names, empty for every queue, got {given!r:.80}")
    return names


def check_count(option: str, count: int, *, least: int) -> None:
    """Raises `ConfigError`."""
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise ConfigError(f"{option} is an integer, {least} or more, got {count!r:.80}")


def _check_seconds(option: str, length: float, *, may_be_0: bool) -> None:
    is_number = isinstance(length, int | float) and not isinstance(length, bool) and math.isfinite(length)
    if not is_number or length < 0 or not (length or may_be_0):
        bound = "0 or more" if may_be_0 else "more than 0"
        raise ConfigError(f"{option} is a number of seconds, {bound}, got {length!r:.80}")
