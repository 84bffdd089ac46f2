"""How code that waits for a moment waits: in real time, unless a test holds the clock.

What time it is, the database says. A clock of a test's own is asked by the database as well, so both agree.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime


class Clock:
    """Real time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def wait(
        self, waiter: int, come: asyncio.Event, seconds: float | None, look_seconds: float | None = None
    ) -> None:
        """Return when `come` is set, or `seconds` have passed, or `look_seconds`, because hints may be lost.

        `waiter` is the id of the task that waits. What came of it, the caller has to look at itself.
        """
        given = [limit for limit in (seconds, look_seconds) if limit is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(min(given, default=None)):
                await come.wait()
