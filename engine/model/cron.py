"""When a schedule fires: cron expressions in a time zone, and `@every`. Pure: the caller says what "now" is.

Six fields, seconds first; five mean second 0. `cron_pattern` has the grammar. At changes of the clock (P16):

- A local time that does not exist fires once, at the end of the gap; several of them fire there together,
  and with whatever is due at that moment anyway.
- A local time that occurs twice fires once, the first time.
- Hourly or shorter patterns, which are those that match in all 24 hours of the day (`*`, `0-23`), follow
  elapsed time instead: they fire whenever a clock on the wall shows a match, twice in an overlap and not at
  all in a gap. `*/2` is two-hourly and `*/5 2 * * *` names an hour, so both keep the first two rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

from engine.errors import InvalidCron, InvalidInput
from engine.model import cron_pattern, cron_words
from engine.model.cron_pattern import Pattern
from engine.model.intervals import Interval, duration
from engine.model.zones import zone_named

MAX_LENGTH = 1_000  # every field with all its values spelled out has 530
FIRST_YEAR, LAST_YEAR = 1900, 2999

DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Cron:
    """An expression and its zone. Times that come in are aware, times that go out are UTC.

    Firings are whole seconds (those of `@every` keep the fraction of the anchor).
    """

    expression: str
    zone: ZoneInfo
    rule: Pattern | Interval

    @classmethod
    def parse(cls, expression: str, zone: str = "UTC", anchor: datetime = _EPOCH) -> Cron:
        """Raises `InvalidCron`, `NeverFires` or `InvalidZone`. Only `@every` looks at the `anchor`.

        The anchor has to be stored along with the schedule: two schedulers with two anchors fire twice.
        """
        fields = _fields(expression)
        rule: Pattern | Interval
        if fields[0].lower() == "@every":
            rule = Interval(duration("".join(fields[1:])), _moment(anchor))
        else:
            rule = cron_pattern.parse(_six(fields))
        return cls(" ".join(fields), zone_named(zone), rule)

    def __str__(self) -> str:
        return self.expression

    def explain(self) -> str:
        """In English: "At 01:30 on Monday to Friday, Europe/Berlin"."""
        if isinstance(self.rule, Interval):
            return self.rule.explain()
        return f"{cron_words.explain(self.rule)}, {cron_words.zone(self.zone)}"

    def next(self, after: datetime) -> datetime:
        """The first firing later than `after`. Raises `InvalidInput` outside the years 1900 to 2999."""
        return self._next(_moment(after))

    def upcoming(self, after: datetime, count: int) -> list[datetime]:
        """The next `count` firings, each later than the one before and all later than `after`."""
        return list(islice(self._firings(after), max(count, 0)))

    def between(self, start: datetime, end: datetime, limit: int) -> list[datetime]:
        """Firings later than `start` and not later than `end`, the oldest `limit` of them."""
        due = takewhile(lambda firing: firing <= end, self._firings(start))
        return list(islice(due, max(limit, 0)))

    def previous(self, before: datetime) -> datetime | None:
        """The last firing earlier than `before`; none before an anchor or the year 1900."""
        latest = _moment(before)
        if isinstance(self.rule, Interval):
            return self.rule.previous(latest)
        return self._previous(latest)

    def _firings(self, after: datetime) -> Iterator[datetime]:
        firing = _moment(after)
        while True:
            firing = self._next(firing)
            yield firing

    def _next(self, after: datetime) -> datetime:
        if isinstance(self.rule, Interval):
            return self.rule.next(after)
        moment = after.replace(microsecond=0, tzinfo=None)
        find = self._next_elapsed if self.rule.is_hourly else self._next_named
        return find(self.rule, moment).replace(tzinfo=UTC)

    def _previous(self, before: datetime) -> datetime | None:
        """By bisection over `next`, so that there is one definition of what fires.

        The firing sought is later than `low` and not later than `high`, both whole seconds.
        """
        start = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC)
        high, reach = before.replace(microsecond=0), _SECOND
        while (firing := self._next(low := max(start, high - reach))) >= before:
            if low == start:
                return None
            high, reach = low, reach * 8
        low = firing - _SECOND
        while high - low > _SECOND:
            middle = low + (high - low) // (2 * _SECOND) * _SECOND
            if (firing := self._next(middle)) < before:
                low = firing - _SECOND
            else:
                high = middle
        return high

    # Below, a moment is a naive time in UTC and a wall time is a naive time in the zone.

    def _next_named(self, pattern: Pattern, after: datetime) -> datetime:
        """The rules for patterns that name hours: each wall time is one moment, the first that shows it."""
        wall = self._wall(after)
        first = self._first(wall)
        if first < after:  # the second pass: all its wall times have fired
            overlap_end = self._change(first, after) + (wall - first)
            return self._first(pattern.first_from(overlap_end))
        return self._first(pattern.first_from(wall + _SECOND))

    def _next_elapsed(self, pattern: Pattern, after: datetime) -> datetime:
        """The rule for hourly patterns: every moment whose wall time matches. Looks at a day at a time."""
        start = after + _SECOND
        while True:
            wall = self._wall(start)
            firing = start + (pattern.first_from(wall) - wall)  # were the offset to stay as it is
            end = min(firing, start + _DAY)
            if self._wall(end) - end != wall - start:
                start = self._change(start, end)
            elif end == firing:
                return firing
            else:
                # Nothing for long: go there, but not so far that changes of the offset may hide a match.
                start = max(end, firing - 2 * _DAY)

    def _wall(self, moment: datetime) -> datetime:
        return self.zone.fromutc(moment.replace(tzinfo=self.zone)).replace(tzinfo=None, fold=0)

    def _first(self, wall: datetime) -> datetime:
        """The first moment at which clocks show `wall`, or the end of the gap in which they skip it."""
        first = wall - self._offset(wall)
        if self._wall(first) == wall:
            return first
        return self._change(wall - self._offset(wall.replace(fold=1)), first)

    def _offset(self, wall: datetime) -> timedelta:
        offset = self.zone.utcoffset(wall.replace(tzinfo=self.zone))
        assert offset is not None  # a zone always knows
        return offset

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The moment in (before, after] from which the offset is no longer that of `before`."""
        offset = self._wall(before) - before
        low, high = 0, int((after - before).total_seconds())
        while high - low > 1:
            middle = (low + high) // 2
            moment = before + timedelta(seconds=middle)
            if self._wall(moment) - moment == offset:
                low = middle
            else:
                high = middle
        return before + timedelta(seconds=high)


def _moment(time: datetime) -> datetime:
    """In UTC. Raises `InvalidInput` for times without a zone, or so far away that calendars end."""
    if time.tzinfo is None:
        raise InvalidInput(f"{time} has no time zone (accepted: times with an offset)")
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise InvalidInput(f"the year {time.year} is too far away (accepted: {FIRST_YEAR} to {LAST_YEAR})")
    return time.astimezone(UTC)


def _fields(expression: str) -> list[str]:
    if len(expression) > MAX_LENGTH:
        raise _error(f"has {len(expression)} characters, the limit is {MAX_LENGTH}")
    strange = re.search(r"[^\t\n\r -~]", expression)
    if strange:
        raise _error(f"contains {strange[0]!r} (accepted: ASCII digits, letters and * ? , - / #)")
    fields = expression.split()
    if not fields:
        raise _error("is empty (accepted: five or six fields, or such as @daily or @every 1h30m)")
    return fields


def _six(fields: list[str]) -> list[str]:
    """Five or six fields or a descriptor, as six fields."""
    if fields[0].startswith("@"):
        return _described(" ".join(fields).lower())
    if "TZ=" in fields[0]:
        raise _error(f"has the zone in it, {fields[0][:40]!r}; give it apart from the expression")
    if len(fields) not in (5, 6):
        raise _error(
            f"has {len(fields)} fields (accepted: six, second minute hour day month weekday,"
            " or five without the second)"
        )
    return ["0", *fields][-6:]


def _described(name: str) -> list[str]:
    if name in DESCRIPTORS:
        return DESCRIPTORS[name].split()
    if name == "@reboot":
        raise _error("@reboot is not supported: schedules outlive the machines they run on")
    raise _error(f"{name[:40]!r} is unknown (accepted: {', '.join(DESCRIPTORS)}, @every 1h30m)")


def _error(what: str) -> InvalidCron:
    return InvalidCron("expression", f"cron expression {what}")
