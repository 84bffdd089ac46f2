"""Totals since the database was made, and the admission limit that rests on them."""

from __future__ import annotations

import time
from collections import Counter

from engine.errors import Overloaded
from engine.store import queries
from engine.store.counters import fold_counters
from engine.store.database import Database

_FRESH_SECONDS = 0.5


async def read(database: Database) -> Counter[str]:
    """`open`, `running`, `started`, `succeeded`, `failed`, `skipped`, `cancelled`, `retried`, `late`,
    and `submitted:<kind>` for each kind."""
    return await database.read(queries.totals)


async def fold(database: Database) -> None:
    """Gather what submits inside callers' transactions counted, each in a row of its own."""
    while await database.run(fold_counters):
        pass


class Admission:
    """Refuses work while too many tasks are open. Looks at most twice a second, so the limit is soft."""

    def __init__(self, database: Database, max_open_tasks: int) -> None:
        self._database = database
        self._max = max_open_tasks
        self._open = 0
        self._looked_at = float("-inf")

    async def check(self, arriving: int) -> None:
        """Raise `Overloaded` if `arriving` more tasks would exceed the limit. 0 means no limit."""
        if not self._max:
            return
        if time.monotonic() - self._looked_at > _FRESH_SECONDS:
            self._open = (await read(self._database))["open"]
            self._looked_at = time.monotonic()
        if self._open + arriving > self._max:
            raise Overloaded(
                f"{self._open} tasks are open and {arriving} more would exceed the limit of {self._max}; "
                "try again later"
            )
        self._open += arriving
