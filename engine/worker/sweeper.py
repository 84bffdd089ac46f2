"""Takes back what dead workers held, and removes what is older than the retention. Safe in every process."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from engine.errors import StoreUnavailable
from engine.executors.process import in_thread, kill_marked
from engine.model.records import WorkerSession
from engine.operations import runs, totals, workers
from engine.store.database import Database
from engine.telemetry import emit
from engine.worker.guardian import boot_time

_TIDY_SECONDS = 60.0
_PRUNE_SECONDS = 3600.0


@dataclass(slots=True)
class _Sighting:
    beat: int
    since: float  # on our own boot-time clock


class Observer:
    """Judges sessions by "the beat has not moved for so long on my own clock"; clocks of others do not count.

    While we did not look (a stalled loop, a database that kept us waiting, a machine asleep) we saw nothing,
    so that time counts against nobody.
    """

    def __init__(self, lease_seconds: float, tick_seconds: float) -> None:
        self._lease_seconds = lease_seconds
        self._tick_seconds = tick_seconds
        self._seen: dict[int, _Sighting] = {}
        self._last_look = boot_time()

    def overdue(self, sessions: list[WorkerSession]) -> list[WorkerSession]:
        now = boot_time()
        gap = now - self._last_look
        self._last_look = now
        if gap > max(3 * self._tick_seconds, 1.0):
            for earlier in self._seen.values():
                earlier.since += gap - self._tick_seconds
        seen, self._seen = self._seen, {}
        late = []
        for session in sessions:
            sighting = seen.get(session.id)
            if sighting is None or sighting.beat != session.beat:
                sighting = _Sighting(session.beat, now)
            elif now - sighting.since >= self._lease_seconds:
                late.append(session)
            self._seen[session.id] = sighting
        return late


async def end_processes(session: WorkerSession) -> None:
    """Of a dead session's tasks, if it was on this machine: its guardian may have been killed with it."""
    if session.host == socket.gethostname():
        await in_thread(lambda: kill_marked("ENGINE_SESSION", str(session.id)), name="engine-leftovers")


class Sweeper:
    def __init__(
        self,
        database: Database,
        observer_id: int,
        *,
        lease_seconds: float,
        sweep_seconds: float,
        retention_seconds: float,
    ) -> None:
        self._database = database
        self.observer_id = observer_id
        self._seconds = sweep_seconds
        self._retention = retention_seconds
        self._observer = Observer(lease_seconds, sweep_seconds)

    async def run(self) -> None:
        await self._often(self.sweep)

    async def clear_the_way(self) -> None:
        """Beside `run`: a sweep may itself wait for the locks of a transaction that has stalled."""
        await self._often(self._end_stalled)

    async def _often(self, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._seconds * random.uniform(0.8, 1.2))
            try:
                await look()
            except StoreUnavailable:
                continue
            except Exception as error:  # the next look may go better
                emit("sweeper.failed", level="error", error=repr(error))

    async def _end_stalled(self) -> None:
        stalled = await workers.end_stalled(self._database)
        if stalled:
            emit("sweeper.stalled_ended", level="warning", transactions=stalled)

    async def sweep(self) -> None:
        if not self._database.is_private:  # otherwise there is nobody else whose beat could stop
            for session in self._observer.overdue(await workers.live(self._database)):
                if session.id != self.observer_id:
                    await self._each(self._expire, session)
        for session in await workers.sessions_to_clear(self._database):
            await self._each(self._clear, session)

    async def _each(
        self, take_back: Callable[[WorkerSession], Awaitable[None]], session: WorkerSession
    ) -> None:
        try:
            await take_back(session)
        except StoreUnavailable:
            raise
        except Exception as error:  # one bad row must not end the recovery of all others
            emit("sweeper.failed", level="error", session=session.id, error=repr(error))

    async def _clear(self, session: WorkerSession) -> None:
        count = await workers.clear(self._database, session, self.observer_id)
        if count:
            emit("worker.cleared", level="warning", session=session.id, tasks=count)

    async def _expire(self, session: WorkerSession) -> None:
        # Before others may repeat its tasks. If it beats again meanwhile: it has ended them itself by now.
        await end_processes(session)
        count = await workers.expire(self._database, session, self.observer_id)
        if count is not None:
            emit("worker.expired", level="warning", session=session.id, worker=session.name, tasks=count)

    async def tidy_often(self) -> None:
        prune_at = boot_time() + _PRUNE_SECONDS * random.uniform(0.0, 1.0)
        while True:
            await asyncio.sleep(_TIDY_SECONDS * random.uniform(0.5, 1.5))
            try:
                await totals.fold(self._database)
                if boot_time() > prune_at:
                    prune_at = boot_time() + _PRUNE_SECONDS
                    await self._prune()
            except StoreUnavailable:
                continue
            except Exception as error:  # as above
                emit("tidy.failed", level="error", error=repr(error))

    async def _prune(self) -> None:
        removed = await runs.prune(self._database, finished_seconds=self._retention)
        if removed:
            emit("runs.pruned", runs=removed)
