"""A cron pattern in English: "Every 15 minutes, in hours 9 to 17 on Monday to Friday"."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from itertools import product
from zoneinfo import ZoneInfo

from engine.model.cron_pattern import LAST, Pattern

MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
WHICH = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", LAST: "last"}

_MOST_TIMES = 6  # more times of the day than that are described by their fields instead of one by one


def explain(pattern: Pattern) -> str:
    """One sentence without its zone; what restricts nothing is not mentioned."""
    words = f"{_times(pattern)}{_days(pattern)}{_months(pattern)}"
    return words[0].upper() + words[1:]


def zone(zone: ZoneInfo) -> str:
    """The name, and for `Etc/GMT+3` that it is behind UTC, which the name hides."""
    if zone.key.startswith("Etc/GMT") and zone.key != "Etc/GMT":
        return f"{zone.key} (UTC{datetime(2000, 1, 1, tzinfo=UTC).astimezone(zone).isoformat()[-6:]})"
    return zone.key


def _times(pattern: Pattern) -> str:
    seconds, minutes, hours = pattern.seconds, pattern.minutes, pattern.hours
    if len(seconds) * len(minutes) * len(hours) <= _MOST_TIMES:
        times = _list([_clock(*found) for found in product(hours, minutes, seconds)])
        return f"at {times}" + (" every day" if pattern.days is None and pattern.weekdays is None else "")
    every_hour = _field(hours, 24, "in hour")
    if seconds == minutes == (0,) and every_hour.startswith("every"):
        return every_hour
    parts = [] if seconds == (0,) else [_field(seconds, 60, "at second")]
    for values, count, name in ((minutes, 60, "at minute"), (hours, 24, "in hour")):
        follows = bool(parts) and parts[-1].startswith("every")
        if not (follows and len(values) == count):  # "every second" goes on through every minute
            parts.append(_field(values, count, name))
    return ", ".join(parts)


def _clock(hour: int, minute: int, second: int) -> str:
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if second else "")


def _field(values: Sequence[int], count: int, name: str) -> str:
    """`name` is such as "at minute"; `count` values are all there are, from 0."""
    unit = name.rpartition(" ")[2]
    if len(values) == count:
        return f"every {unit}"
    step = values[1] - values[0] if len(values) > 1 else count
    if list(values) == list(range(0, count, step)) and step < count:
        return f"every {step} {unit}s"
    return f"{name}{_s(values)} {_runs(values)}"


def _days(pattern: Pattern) -> str:
    kinds = [_days_of_month(pattern.days or ()), _days_of_week(pattern.weekdays or ())]
    return "".join([" ", " or ".join(filter(None, kinds))]) if any(kinds) else ""


def _days_of_month(days: Collection[int]) -> str:
    counted = sorted(set(days) - {LAST})
    parts = [f"day{_s(counted)} {_runs(counted)}"] if counted else []
    if LAST in days:
        parts.append("the last day")
    return f"on {_list(parts)} of the month" if parts else ""


def _days_of_week(weekdays: Collection[tuple[int, int | None]]) -> str:
    # From Monday to Sunday, so that SAT,SUN are neighbours.
    each = sorted((day - 1) % 7 for day, which in weekdays if which is None)
    single = sorted((which % 7, day, which) for day, which in weekdays if which is not None)
    parts = [_runs(each, [*WEEKDAYS[1:], WEEKDAYS[0]])] if each else []
    if single:
        parts.append(
            _list([f"the {WHICH[which]} {WEEKDAYS[day]}" for _, day, which in single]) + " of the month"
        )
    return f"on {_list(parts)}" if parts else ""


def _months(pattern: Pattern) -> str:
    return f" in {_runs(pattern.months, ['', *MONTHS])}" if len(pattern.months) < 12 else ""


def _runs(values: Sequence[int], names: Sequence[str] | None = None) -> str:
    """1, 2, 3, 5 as "1 to 3 and 5"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    parts = []
    for run in runs:
        words = [str(value) if names is None else names[value] for value in run]
        parts += [f"{words[0]} to {words[-1]}"] if len(run) > 2 else words
    return _list(parts)


def _list(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def _s(values: Sequence[int]) -> str:
    return "s" if len(values) > 1 else ""
