"""Who moves the clock of a database in memory: when nothing can go on, to the moment when something can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from datetime import datetime
from typing import TypeVar

from engine.model.graph import DEFAULT_QUEUE
from engine.operations import relays, schedules
from engine.store.database import Database, Transaction
from engine.store.outlook import Outlook, look
from engine.testing.clock import VirtualClock

T = TypeVar("T")

_TURNS = 5  # of the event loop: whoever has been woken is up by then
_FIRST_SECONDS = 0.0005
_LONGEST_SECONDS = 0.01


class Standstill(Exception):
    """Nothing can go on, nothing is due at any time, and what was looked for is not there."""


class Pace:
    """Looks at the database, which is all that decides: a task that is claimed and not recorded is running.

    Time stands still while a task runs that does not wait on the clock, or can be claimed, or a schedule or a
    callback is due. It jumps after two looks in a row have seen the same: between them whoever was woken by
    the first one's moment has gone on.
    """

    def __init__(self, database: Database, clock: VirtualClock, kinds: Collection[str], room: int) -> None:
        self._database = database
        self._clock = clock
        self._kinds = kinds
        self._room = room

    async def drive(self, find: Callable[[Transaction], T | None], until: datetime | None = None) -> T | None:
        """Let everything go on until `find` finds something, which is returned.

        None if the clock has come to `until` and nothing more can go on then. Without `until`, raises
        `Standstill` rather than wait for what cannot come. Whatever raises in `find` is raised.
        """

        def look_for_both(tx: Transaction) -> tuple[T | None, Outlook]:
            return find(tx), look(tx, self._kinds, self._room)

        before: Outlook | None = None
        pause = _FIRST_SECONDS
        while True:
            found, outlook = await self._database.read(look_for_both)
            if found is not None:
                return found
            if outlook.can_tick:
                await schedules.tick(self._database)
                await relays.tick(self._database)
            is_quiet = self._is_quiet(outlook)
            if is_quiet and outlook == before:
                if not self._jump(outlook, until):
                    return None
                before, pause = None, _FIRST_SECONDS
            elif is_quiet:
                before = outlook
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
            else:
                before = None
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST_SECONDS)
                if outlook.can_claim and pause == _LONGEST_SECONDS:
                    self._database.wake({DEFAULT_QUEUE})

    def _is_quiet(self, outlook: Outlook) -> bool:
        return not outlook.can_claim and not outlook.can_tick and outlook.running <= self._clock.asleep

    def _jump(self, outlook: Outlook, until: datetime | None) -> bool:
        """To the next moment, at most to `until`; False if that is where we are."""
        due = [moment for moment in (outlook.next_at, self._clock.next_due) if moment is not None]
        target = min(due, default=None)
        if until is not None and (target is None or target > until):
            self._clock.move_to(until)
            return False
        if target is None:
            raise Standstill
        self._clock.move_to(target)
        self._database.wake({DEFAULT_QUEUE})  # tasks may have become due: polling would take a second
        return True
