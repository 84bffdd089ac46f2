"""What a schedule does with nominal times that have come: which fire, and which were missed. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import takewhile

from engine.errors import InvalidInput
from engine.model.cron import Cron
from engine.model.graph import check_name
from engine.model.json import JSON, Unstorable, check_storable

ON_TIME = timedelta(seconds=60)  # a time that is looked at later than this was missed
MAX_CATCH_UP = 1_000
MAX_FIRES = 5  # in one transaction: each may be a run of thousands of tasks
_TICK = timedelta(microseconds=1)


class Overlap(StrEnum):
    """What happens when a time comes and the run of an earlier one has not ended."""

    ALLOW = "allow"
    SKIP = "skip"
    CANCEL_PREVIOUS = "cancel_previous"
    QUEUE_ONE = "queue_one"  # the newest such time waits, one at most


class CatchUp(StrEnum):
    """Which of the times fire that passed while no scheduler ran."""

    SKIP = "skip"
    LAST = "last"
    ALL = "all"  # the newest ones, up to the schedule's limit


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule as it is asked for. Text may be given for members of enums. `zone` None: the engine's own.

    Raises `InvalidInput` (also as `InvalidCron`) if it makes no sense.
    """

    name: str
    expression: str
    zone: str | None = None
    params: JSON = None
    overlap: Overlap = Overlap.ALLOW
    catch_up: CatchUp = CatchUp.LAST
    catch_up_limit: int = 100

    def __post_init__(self) -> None:
        check_name(self.name, "schedule name")
        Cron.parse(self.expression, self.zone or "UTC")
        if not isinstance(self.params, Mapping | None):
            raise InvalidInput("params of a schedule are an object with their names as keys")
        try:
            check_storable(self.params)
        except Unstorable as error:
            raise InvalidInput(f"params of a schedule cannot be stored: {error}") from None
        self._choose("overlap", Overlap)
        self._choose("catch_up", CatchUp)
        if not 1 <= self.catch_up_limit <= MAX_CATCH_UP:
            raise InvalidInput(f"catch_up_limit {self.catch_up_limit} is outside 1 to {MAX_CATCH_UP}")

    def _choose(self, field: str, words: type[StrEnum]) -> None:
        given = getattr(self, field)
        if given not in list(words):
            raise InvalidInput(f"{field} {given!r:.40} is not one of {', '.join(words)}")
        object.__setattr__(self, field, words(given))


@dataclass(frozen=True, slots=True)
class Due:
    """What is to be done now: `fires` in order, after `missed`, the newest time that will not fire.

    `next` is the oldest nominal time that is not decided about; it may have come already.
    """

    fires: list[datetime]
    missed: datetime | None
    next: datetime | None


def due(cron: Cron, first: datetime, now: datetime, catch_up: CatchUp, limit: int) -> Due:
    """`first` is the oldest nominal time that is not decided about, and not later than `now`."""
    on_time = _times(cron, max(first, now - ON_TIME), first, now)
    keeps = {CatchUp.SKIP: 0, CatchUp.LAST: 0 if on_time else 1, CatchUp.ALL: limit}[catch_up]
    late = _newest_late(cron, first, now - ON_TIME, keeps + 1)
    kept = late[-keeps:] if keeps else []
    missed = next((time for time in reversed(late) if time not in kept), None)
    fires = [*kept, *on_time]
    chunk = fires[:MAX_FIRES]
    last = chunk[-1] if chunk else max(late, default=first)
    return Due(chunk, missed, _after(cron, last))


def _newest_late(cron: Cron, first: datetime, before: datetime, count: int) -> list[datetime]:
    """The newest `count` times from `first` on and earlier than `before`.

    Counted from their end, in windows that grow: a schedule that fires each second may have been forgotten
    for a year.
    """
    window = timedelta(minutes=1)
    while True:
        start = max(first, before - window)
        found = [time for time in _times(cron, start, first, before) if time < before]
        if len(found) >= count or start == first:
            return found[-count:]
        window *= 4


def _times(cron: Cron, start: datetime, first: datetime, end: datetime) -> list[datetime]:
    """Times from `start` to `end`, both included; `first` is one even if the expression was changed since."""
    times = [first] if start <= first <= end else []
    behind = max(start - _TICK, first)
    times += takewhile(lambda time: time <= end, _from(cron, behind))
    return times


def _from(cron: Cron, after: datetime) -> Iterator[datetime]:
    time = _after(cron, after)
    while time is not None:
        yield time
        time = _after(cron, time)


def _after(cron: Cron, time: datetime) -> datetime | None:
    try:
        return cron.next(time)
    except InvalidInput:  # there is none within the years that are looked at
        return None
