"""What a streaming task, and functions that publish, ask of the database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from engine.errors import Overloaded
from engine.expressions.evaluator import Evaluator
from engine.model.json import JSON
from engine.model.records import Lease
from engine.operations import stream_state
from engine.store.database import SIGNALLED, Database
from engine.streams.events import StreamEvent, StreamState
from engine.streams.ports import Batch, Standing, Stored
from engine.worker.durable import Insist

_LOOK_SECONDS = 1.0  # hints may be lost
_FULL_SECONDS = 0.2  # between tries to publish to a task that has no room


class DatabaseStream:
    """`streams.ports.StreamStore` of one attempt."""

    def __init__(
        self, database: Database, lease: Lease, insist: Insist, evaluator: Evaluator, actor: str
    ) -> None:
        self._database = database
        self._lease = lease
        self._insist = insist
        self._evaluator = evaluator
        self._actor = actor

    async def open(self) -> Standing:
        standing: Standing = await self._insist(lambda: stream_state.open(self._database, self._lease))
        return standing

    async def keep(self, payloads: Sequence[JSON], /, *, is_connected: bool) -> int:
        # After an answer that was lost they are stored twice; the commit of the later ones removes both.
        first: int = await self._insist(
            lambda: stream_state.keep(self._database, self._lease, payloads, is_connected=is_connected)
        )
        return first

    async def waiting(self, after: int, limit: int, /) -> list[Stored]:
        found: list[Stored] = await self._insist(
            lambda: stream_state.waiting(self._database, self._lease, after, limit)
        )
        return found

    async def arrived(self) -> None:
        loop, come = asyncio.get_running_loop(), asyncio.Event()

        def on_wake(hint: str) -> None:
            if hint in (SIGNALLED, ""):
                loop.call_soon_threadsafe(come.set)

        self._database.on_wake(on_wake)
        try:
            await asyncio.wait_for(come.wait(), _LOOK_SECONDS)
        except TimeoutError:
            return
        finally:
            self._database.off_wake(on_wake)

    async def commit(self, batch: Batch, state: StreamState, /, *, is_connected: bool) -> bool:
        is_paused: bool = await self._insist(
            lambda: stream_state.commit(self._database, self._lease, batch, state, is_connected=is_connected)
        )
        return is_paused

    async def look(self) -> bool:
        is_paused: bool = await self._insist(lambda: stream_state.look(self._database, self._lease))
        return is_paused

    async def tell(
        self,
        events: Sequence[StreamEvent],
        /,
        *,
        state: StreamState | None = None,
        gaps: int = 0,
        is_connected: bool = False,
    ) -> None:
        await self._insist(
            lambda: stream_state.tell(
                self._database,
                self._lease,
                events,
                state=state,
                gaps=gaps,
                is_connected=is_connected,
                actor=self._actor,
            )
        )

    async def holds(self, condition: str, names: Mapping[str, JSON], /) -> bool:
        return await self._evaluator.condition(condition, dict(names))


class Publisher:
    """`functions.ports.Ports.publish` of one attempt: waits while a task has no room for the event."""

    def __init__(self, database: Database, lease: Lease, insist: Insist, actor: str) -> None:
        self._database = database
        self._lease = lease
        self._insist = insist
        self._actor = actor

    async def __call__(self, type: str, payload: JSON) -> list[str]:
        """The names of the tasks that got it. Raises `Conflict` if none takes it, `InvalidInput`."""
        while True:
            try:
                return await self._publish(type, payload)
            except Overloaded:
                await asyncio.sleep(_FULL_SECONDS)

    async def _publish(self, type: str, payload: JSON) -> list[str]:
        published: stream_state.Published = await self._insist(
            lambda: stream_state.publish(
                self._database,
                self._lease.run_id,
                type,
                payload,
                sender_id=self._lease.task_id,
                actor=self._actor,
            )
        )
        return published.tasks
