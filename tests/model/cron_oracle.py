"""What fires when, by walking real time minute by minute: slow, plain, and nothing shared with `engine`.

A `Walk` reads a zone's clock at every UTC minute of a period. Which minutes it shows again and which it
skips follows from what it has shown so far. Seconds need no walk: offsets change on whole minutes (asserted).
"""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
NAMES = {
    **{name.upper(): str(number) for number, name in enumerate(calendar.month_abbr) if name},
    **{name.upper(): str((number + 1) % 7) for number, name in enumerate(calendar.day_abbr)},
}


class Oracle:
    """An expression of five or six fields. Knows what is valid by assuming that it is."""

    def __init__(self, expression: str) -> None:
        fields = expression.upper().split()
        if len(fields) == 5:
            fields = ["0", *fields]
        self.seconds = [timedelta(seconds=n) for n in range(60) if has(fields[0], n, 59)]
        self.minutes = {n for n in range(60) if has(fields[1], n, 59)}
        self.hours = {n for n in range(24) if has(fields[2], n, 23)}
        self.months = {n for n in range(1, 13) if has(fields[4], n, 12, start=1)}
        self.day, self.weekday = fields[3], fields[5]
        self.hourly = self.hours == set(range(24))
        self.of_day = [60 * hour + minute for hour in sorted(self.hours) for minute in sorted(self.minutes)]
        self.days: dict[tuple[int, int, int], bool] = {}

    def has_day(self, year: int, month: int, day: int) -> bool:
        key = year, month, day
        if key not in self.days:
            self.days[key] = self.fits(*key)
        return self.days[key]

    def fits(self, year: int, month: int, day: int) -> bool:
        if month not in self.months:
            return False
        any_day, any_weekday = restricts_nothing(self.day), restricts_nothing(self.weekday)
        length = calendar.monthrange(year, month)[1]
        by_day = has(self.day, day, 31, start=1) or ("L" in self.day.split(",") and day == length)
        by_weekday = self.fits_weekday(calendar.weekday(year, month, day), day, length)
        if any_day or any_weekday:
            return (any_day or by_day) and (any_weekday or by_weekday)
        return by_day or by_weekday

    def fits_weekday(self, monday_first: int, day: int, length: int) -> bool:
        for number in {(monday_first + 1) % 7, monday_first + 1}:  # Sunday has two
            for item in self.weekday.split(","):
                name, _, which = item.partition("#")
                name = NAMES.get(name, name)
                if which:
                    if int(name) == number and int(which) == len(range(day, 0, -7)):
                        return True
                elif item.endswith("L"):
                    if int(NAMES.get(item[:-1], item[:-1])) == number and day > length - 7:
                        return True
                elif has(item, number, 6):
                    return True
        return False

    def firings(self, walk: Walk) -> list[datetime]:
        found: list[datetime] = []
        for run in walk.runs:
            minutes = self.matches(run.first, run.minutes)
            if run.kind == "gap":
                if not self.hourly and any(True for _ in minutes):
                    found.append(run.utc)  # the end of the gap, where the clock goes on
            elif run.kind == "once" or self.hourly:
                for minute in minutes:
                    found += [run.utc + minute * MINUTE + second for second in self.seconds]
        return sorted(set(found))

    def matches(self, first: datetime, minutes: int) -> Iterator[int]:
        """Which of `minutes` minutes of the clock match, counted from `first`."""
        midnight = first.replace(hour=0, minute=0)
        offset = -int((first - midnight) / MINUTE)
        while offset < minutes:
            if self.has_day(midnight.year, midnight.month, midnight.day):
                yield from (offset + n for n in self.of_day if 0 <= offset + n < minutes)
            midnight += timedelta(days=1)
            offset += 1440


def restricts_nothing(field: str) -> bool:
    return any(item in ("*", "?", "*/1") for item in field.split(","))


def has(field: str, value: int, top: int, start: int = 0) -> bool:
    """Whether a field, or an item of it, matches `value`."""
    for item in field.split(","):
        head, _, step = item.partition("/")
        low, _, high = head.partition("-")
        low = NAMES.get(low, low)
        high = "7" if high == "SUN" else NAMES.get(high, high)
        if low in "*?":
            first, last = start, top
        elif not low.isdigit():
            continue  # L, 5L, 5#2
        else:
            first = int(low)
            last = int(high) if high else (max(top, first) if step else first)
        if first <= value <= last and (value - first) % int(step or 1) == 0:
            return True
    return False


@dataclass
class Run:
    """Minutes that a clock shows one after the other, or that it skips, from `utc` on."""

    utc: datetime
    kind: Literal["once", "again", "gap"]
    first: datetime
    minutes: int


class Walk:
    """A zone's clock from `start` to before `end`, whole minutes in UTC. Begins outside an overlap."""

    def __init__(self, zone: str, start: datetime, end: datetime) -> None:
        self.zone, self.start, self.end = zone, start, end
        self.runs: list[Run] = []
        offsets = self.offsets(ZoneInfo(zone))
        self.changes = [utc for utc, _ in offsets[1:]]
        expected = start.replace(tzinfo=None) + offsets[0][1]  # the first minute that was never shown
        for (utc, offset), until in zip(offsets, [*self.changes, end], strict=True):
            first = utc.replace(tzinfo=None) + offset
            last = until.replace(tzinfo=None) + offset
            self.add(utc, "gap", expected, first)
            self.add(utc, "again", first, min(expected, last))
            begin = max(first, expected)
            self.add(utc + (begin - first), "once", begin, last)
            expected = max(expected, last)

    def offsets(self, clock: ZoneInfo) -> list[tuple[datetime, timedelta]]:
        """The minutes from which another offset holds."""
        found: list[tuple[datetime, timedelta]] = []
        utc, current = self.start, None
        while utc < self.end:
            offset = utc.astimezone(clock).utcoffset()
            if offset != current:
                assert offset is not None and not offset % MINUTE
                found.append((utc, offset))
                current = offset
            utc += MINUTE
        return found

    def add(
        self, utc: datetime, kind: Literal["once", "again", "gap"], first: datetime, end: datetime
    ) -> None:
        if end > first:
            self.runs.append(Run(utc, kind, first, int((end - first) / MINUTE)))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
