"""A clock that a test holds: it moves when it is told to, and by next to nothing on its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from engine.errors import InvalidInput
from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.sleep import SleepExecutor, SleepParams
from engine.model.outcomes import Outcome, Succeeded
from engine.store.clock import Clock

START = datetime(2026, 1, 1, tzinfo=UTC)  # a Thursday
_TICK = timedelta(microseconds=1)


@dataclass(slots=True, eq=False)
class _Wait:
    """Of a task. Without `due` it waits for something else than time."""

    waiter: int
    come: asyncio.Event
    due: datetime | None


class VirtualClock(Clock):
    """The time of one database in memory: `Database("sqlite://", clock=VirtualClock())`.

    What waits on it: `ctx.sleep`, `ctx.wait_for_signal`, the kind `sleep`, tasks that are tried again later,
    and schedules. Timeouts of attempts, and everything outside of the engine, take real time.
    """

    def __init__(self, start: datetime = START) -> None:
        """Raises `ValueError` for a time without a zone."""
        if start.tzinfo is None:
            raise ValueError(f"{start!r} has no time zone; add tzinfo=UTC")
        self._now = start.astimezone(UTC)
        self._lock = threading.Lock()  # the database asks from a thread of its own
        self._waits: set[_Wait] = set()

    def __repr__(self) -> str:
        return f"<clock at {self.moment.isoformat()}>"

    @property
    def moment(self) -> datetime:
        """What time it is, in UTC."""
        return self._now

    def now(self) -> datetime:
        """As `moment`. Each reading is a microsecond later than the one before: what happens later has a
        later time, as with any clock. A million readings make a second.
        """
        with self._lock:
            self._now += _TICK
            return self._now

    def advance(self, by: timedelta | None = None, **parts: float) -> datetime:
        """Move on at once, as if the machine had slept: `advance(hours=3)`. To be called on the event loop.

        Raises `InvalidInput` for what is no length of time, or is negative.

        Nothing happens at the times in between; for that there is `Harness.advance`.
        """
        return self.move_to(self.moment + length(by, parts))

    def move_to(self, moment: datetime) -> datetime:
        """Never goes back."""
        with self._lock:
            self._now = max(self._now, moment)
        for wait in self._waits:
            if wait.due is not None and wait.due <= self._now:
                wait.come.set()
        return self._now

    # --- who waits

    async def wait(
        self, waiter: int, come: asyncio.Event, seconds: float | None, look_seconds: float | None = None
    ) -> None:
        """Within one process no hint is lost: there is nothing to look for in between."""
        due = None if seconds is None else self.moment + timedelta(seconds=seconds)
        wait = _Wait(waiter, come, due)
        self._waits.add(wait)
        try:
            await come.wait()
        finally:
            self._waits.discard(wait)

    @property
    def asleep(self) -> frozenset[int]:
        """Ids of the tasks that wait, and do nothing else as far as we can see."""
        awake = {wait.waiter for wait in self._waits if wait.come.is_set()}
        return frozenset(wait.waiter for wait in self._waits) - awake

    @property
    def next_due(self) -> datetime | None:
        """When the first of those who wait for a time goes on."""
        return min((wait.due for wait in self._waits if wait.due is not None), default=None)

    def waits_for_a_signal(self, task_id: int) -> bool:
        """And for no time."""
        return any(wait.waiter == task_id and wait.due is None for wait in self._waits)


def length(by: timedelta | None, parts: Mapping[str, float]) -> timedelta:
    """How long `advance(by, **parts)` is. Raises `InvalidInput`."""
    if not isinstance(by, timedelta | None):
        raise InvalidInput(f"time is a timedelta, or hours=3 and the like, got {by!r:.80}")
    try:
        found = (by or timedelta()) + timedelta(**parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(f"time is given in days, hours, minutes, seconds and the like: {error}") from None
    if found < timedelta():
        raise InvalidInput(f"the clock never goes back, got {found}")
    return found


class VirtualSleep(SleepExecutor):
    """The kind `sleep`, on a clock of a test."""

    def __init__(self, settings: ExecutorSettings, clock: Clock) -> None:
        super().__init__(settings)
        self._clock = clock

    async def perform(self, context: TaskContext, params: SleepParams) -> Outcome:
        if params.duration_ms:
            await self._clock.wait(context.lease.task_id, asyncio.Event(), params.duration_ms / 1000)
        return Succeeded({"slept_ms": params.duration_ms})
