"""Starts what is due by time or by event: schedules, callbacks and plug-ins. Every worker process has one."""

from __future__ import annotations

import asyncio
import random
import time

from engine.errors import StoreUnavailable
from engine.operations import relays, schedules
from engine.store.database import Database
from engine.telemetry import emit

_LOOK_SECONDS = 1.0  # a schedule that another process made is noticed this soon
_AWAY_SECONDS = 2.0
_BUSY_SECONDS = 0.05  # there is more, or another scheduler is at what is due
_LOOKS = 20  # a look for events that finds nothing is followed by so many times its length without one


class Scheduler:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._telling = relays.Telling()
        self._relay_at = 0.0

    async def run(self) -> None:
        while True:
            wait = await self._tick()
            await asyncio.sleep(wait)

    async def _relay(self) -> relays.Tick:
        """Callbacks and plug-ins. Among very many open runs a look takes long, and is taken less often."""
        began = time.monotonic()
        if began < self._relay_at:
            return relays.Tick()
        tick = await relays.tick(self._database, self._telling)
        if not tick.runs and not tick.has_more:
            self._relay_at = time.monotonic() + _LOOKS * (time.monotonic() - began)
        return tick

    async def _tick(self) -> float:
        """Seconds until the next look."""
        try:
            due = await schedules.tick(self._database)
            told = await self._relay()
        except StoreUnavailable:
            return _AWAY_SECONDS
        if due.started:
            emit("schedule.fired", runs=due.started)
        if told.calls:
            emit("callback.called", calls=told.calls)
        if told.has_more:
            return _BUSY_SECONDS
        wait = _LOOK_SECONDS * random.uniform(0.8, 1.0)
        return wait if due.next_in is None else min(wait, max(due.next_in, _BUSY_SECONDS))
