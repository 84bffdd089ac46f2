"""The fields of a cron expression: their grammar, and the local times that match them. Knows no zones.

    second 0-59, minute 0-59, hour 0-23, day of month 1-31, month 1-12 or JAN-DEC, day of week 0-7 or SUN-SAT

Each is a list of `*`, `5`, `1-5`, `*/15`, `1-30/2` and `5/15` (from 5 to the end). 0 and 7 are Sunday, names
may be in any case, `?` is `*` in the two day fields. `L` is the last day of the month, `FRI#2` the second
Friday, `FRIL` the last. What others understand differently is refused rather than guessed: `W`, `H`, `L-3`,
ranges that run backwards, steps that leave the field.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from calendar import monthrange
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from engine.errors import InvalidCron, NeverFires

MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
LAST = -1

# 29 February is 8 years away around 2100; the rarest is the fifth weekday of a February, 40 years.
HORIZON_YEARS = 40

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pattern:
    """What each field matches, ascending. Days that are None are `*` or `?`: they restrict nothing.

    `days` may hold `LAST`; `weekdays` are (weekday from Sunday = 0, which one of the month) with None for
    each of them, 1 to 5, or `LAST`. When both are restricted a day matches if either does.
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int] | None
    months: tuple[int, ...]
    weekdays: frozenset[tuple[int, int | None]] | None

    @property
    def is_hourly(self) -> bool:
        """Hourly or shorter: it matches in every hour of the day."""
        return len(self.hours) == 24

    def first_from(self, start: datetime) -> datetime:
        """The earliest match at or after `start`, both naive local times. Raises `NeverFires`."""
        day = start.date()
        found = self._time_from(start) if self._has(day) else None
        if found is None:
            day = self._day_from(day + _ONE_DAY)
            found = time(self.hours[0], self.minutes[0], self.seconds[0])
        return datetime.combine(day, found)

    def _time_from(self, start: datetime) -> time | None:
        """The earliest time of the same day."""
        hour, minute = start.hour, start.minute
        if hour in self.hours:
            if minute in self.minutes and (second := _at_least(self.seconds, start.second)) is not None:
                return time(hour, minute, second)
            if (later := _at_least(self.minutes, minute + 1)) is not None:
                return time(hour, later, self.seconds[0])
        if (later := _at_least(self.hours, hour + 1)) is not None:
            return time(later, self.minutes[0], self.seconds[0])
        return None

    def _day_from(self, start: date) -> date:
        for year in range(start.year, start.year + HORIZON_YEARS + 1):
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                weekday, length = monthrange(year, month)
                first = start.day if (year, month) == (start.year, start.month) else 1
                for day in range(first, length + 1):
                    if self._matches(day, (weekday + day) % 7, length):  # monthrange counts from Monday = 0
                        return date(year, month, day)
        raise NeverFires("day of month", f"no day matches within {HORIZON_YEARS} years after {start}")

    def _has(self, day: date) -> bool:
        length = monthrange(day.year, day.month)[1]
        return day.month in self.months and self._matches(day.day, day.isoweekday() % 7, length)

    def _matches(self, day: int, weekday: int, length: int) -> bool:
        in_month = self.days is not None and (day in self.days or (day == length and LAST in self.days))
        if self.weekdays is None:
            return in_month or self.days is None
        return in_month or (
            (weekday, None) in self.weekdays
            or (weekday, (day + 6) // 7) in self.weekdays
            or (day + 7 > length and (weekday, LAST) in self.weekdays)
        )


def parse(fields: Sequence[str]) -> Pattern:
    """Six fields, seconds first. Raises `InvalidCron` for the first field that is wrong, or `NeverFires`."""
    second, minute, hour, day, month, weekday = fields
    pattern = Pattern(
        seconds=_SECOND.parse(second),
        minutes=_MINUTE.parse(minute),
        hours=_HOUR.parse(hour),
        days=_days(day),
        months=_MONTH.parse(month),
        weekdays=_weekdays(weekday),
    )
    try:
        pattern.first_from(datetime(2000, 1, 1))  # noqa: DTZ001  a local time
    except NeverFires:
        raise NeverFires(
            "day of month",
            f"day of month {day[:40]!r} never comes in month {month[:40]!r} (accepted: days that one has)",
        ) from None
    return pattern


@dataclass(frozen=True, slots=True)
class _Field:
    """One field and its grammar. `top` is where `*` ends: on weekdays before 7, which is Sunday again."""

    name: str
    low: int
    high: int
    top: int
    accepted: str
    names: tuple[str, ...] = ()

    def parse(self, text: str) -> tuple[int, ...]:
        return tuple(sorted({value for item in text.split(",") for value in self.values(item)}))

    def values(self, item: str) -> range:
        """An item of the list: `*`, a value, a range, each with or without a step."""
        head, slash, step_text = item.partition("/")
        step = self._step(item, step_text) if slash else 1
        if head == "*":
            return range(self.low, self.top + 1, step)
        first_text, dash, last_text = head.partition("-")
        first = self.value(first_text, item)
        if not dash:
            return range(first, (max(first, self.top) if slash else first) + 1, step)
        last = self.value(last_text, item)
        if last_text.upper() == "SUN" and first > 0:
            last = 7  # FRI-SUN: as the end of a range, Sunday is the day after Saturday
        if last < first:
            raise self.error(item, "runs backwards")
        return range(first, last + 1, step)

    def value(self, text: str, item: str) -> int:
        if text.upper() in self.names:
            return self.names.index(text.upper()) + self.low
        if not text.isdigit():
            raise self.error(item, _why(text))
        if not self.low <= int(text) <= self.high:
            raise self.error(item, f"is outside {self.low} to {self.high}")
        return int(text)

    def _step(self, item: str, text: str) -> int:
        longest = self.top - self.low
        if not text.isdigit() or not 1 <= int(text) <= longest:
            raise self.error(item, f"has a step outside 1 to {longest}")
        return int(text)

    def error(self, item: str, why: str) -> InvalidCron:
        return InvalidCron(self.name, f"{self.name} {item[:40]!r} {why} (accepted: {self.accepted})")


_LISTS = "lists, ranges and steps of them such as 1-5 or */15"
_SECOND = _Field("second", 0, 59, 59, f"0 to 59, *, {_LISTS}")
_MINUTE = _Field("minute", 0, 59, 59, f"0 to 59, *, {_LISTS}")
_HOUR = _Field("hour", 0, 23, 23, "0 to 23, *, lists, ranges and steps of them such as 9-17 or */6")
_DAY = _Field(
    "day of month", 1, 31, 31, "1 to 31, *, ?, L, lists, ranges and steps of them such as 1-7 or */2"
)
_MONTH = _Field("month", 1, 12, 12, "1 to 12, JAN to DEC, *, lists, ranges and steps of them", MONTHS)
_WEEKDAY = _Field(
    "day of week",
    0,
    7,
    6,
    "0 to 7 (0 and 7 are Sunday), SUN to SAT, *, ?, lists, ranges and steps of them such as MON-FRI; "
    "FRI#2 for the second, FRIL for the last of the month",
    WEEKDAYS,
)


def _at_least(values: tuple[int, ...], low: int) -> int | None:
    index = bisect_left(values, low)
    return values[index] if index < len(values) else None


def _days(text: str) -> frozenset[int] | None:
    days = {day for item in _items(text) for day in _day(item)}
    return None if _is_any(text) else frozenset(days)


def _weekdays(text: str) -> frozenset[tuple[int, int | None]] | None:
    weekdays = {weekday for item in _items(text) for weekday in _weekday(item)}
    return None if _is_any(text) else frozenset(weekdays)


def _items(text: str) -> list[str]:
    return ["*"] if text == "?" else text.split(",")


def _is_any(text: str) -> bool:
    return not {"*", "*/1"}.isdisjoint(_items(text))


def _day(item: str) -> Iterable[int]:
    return [LAST] if item.upper() == "L" else _DAY.values(item)


def _weekday(item: str) -> Iterable[tuple[int, int | None]]:
    day, hash_sign, which = item.partition("#")
    if hash_sign:
        if which not in {"1", "2", "3", "4", "5"}:
            raise _WEEKDAY.error(item, "counts the weeks of a month outside 1 to 5")
        return [(_WEEKDAY.value(day, item) % 7, int(which))]
    if re.fullmatch(r"\w+L", item, re.IGNORECASE):
        return [(_WEEKDAY.value(item[:-1], item) % 7, LAST)]
    return [(value % 7, None) for value in _WEEKDAY.values(item)]


def _why(text: str) -> str:
    """What to say about something that is no value of the field."""
    match text.upper():
        case "":
            return "is incomplete"
        case "?":
            return "is not accepted here: ? stands alone, in one of the day fields"
        case "L":
            return "is not accepted here: L stands alone or after a weekday"
        case upper if upper.startswith("H"):
            return "is not supported: H has no fixed meaning, write the number"
        case upper if re.fullmatch(r"[L\d]*W", upper):
            return "is not supported: W, the nearest working day, is understood in several ways"
        case _:
            return "is not a value of this field"
