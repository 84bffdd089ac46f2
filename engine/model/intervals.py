"""Schedules of the form `@every 1h30m`: the same time apart, counted from an anchor."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.errors import InvalidCron
from engine.model.durations import format_ms, parse_ms

MIN_SECONDS, MAX_SECONDS = 1, 5 * 365 * 86_400


@dataclass(frozen=True, slots=True)
class Interval:
    """Fires at `anchor` + n × `step`, n from 1. Elapsed time: no zone and no daylight saving."""

    step: timedelta
    anchor: datetime

    def next(self, after: datetime) -> datetime:
        count = (after - self.anchor) // self.step + 1
        return self.anchor + max(count, 1) * self.step

    def previous(self, before: datetime) -> datetime | None:
        count = -((self.anchor - before) // self.step) - 1  # rounded up, so that `before` itself is not it
        return self.anchor + count * self.step if count >= 1 else None

    def explain(self) -> str:
        length = format_ms(int(self.step.total_seconds()) * 1_000)
        return f"Every {length}, counted from {self.anchor:%Y-%m-%d %H:%M:%S} UTC"


def duration(text: str) -> timedelta:
    """What stands behind `@every`: a Go duration of whole seconds. Raises `InvalidCron`."""
    try:
        seconds, rest = divmod(parse_ms(text), 1_000)
    except ValueError:
        seconds = rest = 0
    if rest or not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise InvalidCron(
            "expression",
            f"@every {text[:40]!r} is not accepted (accepted: whole seconds with a unit, such as 45s, 2m30s "
            f"or 24h; from 1s to {MAX_SECONDS // 3600}h)",
        )
    return timedelta(seconds=seconds)
