"""What the function of one attempt may ask the database to remember for the attempts after it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from engine.functions.ports import Saved
from engine.model.json import JSON
from engine.model.records import Lease
from engine.operations import steps
from engine.store.database import SIGNALLED, Database

_LOOK_SECONDS = 1.0  # hints may be lost


class Insist(Protocol):
    """Calls until the database answers; see `runner`."""

    async def __call__(self, call: Callable[[], Awaitable[Any]], /) -> Any: ...


class DatabaseSteps:
    """`functions.ports.DurableSteps` of one attempt.

    The waits of an attempt for signals of one name are told apart by their order, so the code up to a wait
    has to be the same in each attempt.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        insist: Insist,
        waiting: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._database = database
        self._lease = lease
        self._insist = insist
        self._waiting = waiting  # around what is no work
        self._waits: Counter[str] = Counter()

    async def step_result(self, name: str, /) -> Saved | None:
        found = await self._insist(lambda: steps.find(self._database, self._lease, f"step:{name}"))
        return None if found is None else Saved(found.result)

    async def save_step(self, name: str, result: JSON, /) -> None:
        await self._insist(lambda: steps.save(self._database, self._lease, f"step:{name}", result))

    async def sleep_until(self, name: str, seconds: float, /) -> None:
        with self._waiting():
            while (left := await self._until(f"sleep:{name}", seconds)) > 0:
                await self._wait(asyncio.Event(), left)

    async def next_signal(self, name: str, timeout: float | None, /) -> JSON:
        self._waits[name] += 1
        step = f"signal:{name}:{self._waits[name]}"
        loop, come = asyncio.get_running_loop(), asyncio.Event()

        def on_wake(hint: str) -> None:
            if hint in (SIGNALLED, ""):
                loop.call_soon_threadsafe(come.set)

        self._database.on_wake(on_wake)
        try:
            with self._waiting():
                return await self._take(step, name, timeout, come)
        finally:
            self._database.off_wake(on_wake)

    async def _take(self, step: str, name: str, timeout: float | None, come: asyncio.Event) -> JSON:
        while True:
            come.clear()
            taken = await self._insist(lambda: steps.take_signal(self._database, self._lease, step, name))
            if taken is not None:
                return taken.payload
            left = None if timeout is None else await self._until(f"{step}:timeout", timeout)
            if left is not None and left <= 0:
                raise TimeoutError(f"no signal {name!r} came within {timeout:g} seconds")
            await self._wait(come, left, look_seconds=_LOOK_SECONDS)

    async def _wait(
        self, come: asyncio.Event, seconds: float | None, look_seconds: float | None = None
    ) -> None:
        await self._database.clock.wait(self._lease.task_id, come, seconds, look_seconds)

    async def _until(self, name: str, seconds: float) -> float:
        left: float = await self._insist(lambda: steps.until(self._database, self._lease, name, seconds))
        return left
