"""Claims for one worker: which queues, how far each has been read, and what a lost answer took."""

from __future__ import annotations

import asyncio
import time
import uuid

from engine.errors import StoreUnavailable
from engine.model.records import Lease
from engine.operations import tasks, workers
from engine.store.database import Database
from engine.store.tasks import ClaimRequest
from engine.telemetry import emit

MAX_BATCH = 500
_FULL_LOOK_SECONDS = 1.0
_QUEUES_SECONDS = 1.0


class Claimer:
    """Starts each claim where the last one of that queue ended: dead index entries before it cost nothing.

    Rows can become available behind that mark (late commits, higher priorities), so it looks from the
    start again every second, whenever a claim comes back short, and after any hint.
    """

    def __init__(
        self,
        database: Database,
        session_id: int,
        queues: tuple[str, ...],
        kinds: tuple[str, ...],
        actor: str,
    ) -> None:
        self._database = database
        self.session_id = session_id
        self._only = queues
        self._queues: list[str] = list(queues)
        self._queues_read_at = float("-inf")
        self._kinds = kinds
        self._actor = actor
        self._marks: dict[str, tuple[tasks.Mark, float]] = {}
        self._turn = 0

    def start_over(self) -> None:
        """Look from the start of every queue, and for new queues, at the next claim."""
        self._marks.clear()
        self._queues_read_at = float("-inf")

    async def claim(self, room: int) -> list[Lease]:
        """Up to `room` leases, from the queues in turn. An unreachable database gives none."""
        claimed: list[Lease] = []
        try:
            queues = await self._names()
            self._turn += 1
            for offset in range(len(queues)):
                if len(claimed) >= room:
                    break
                queue = queues[(self._turn + offset) % len(queues)]
                claimed += await self._claim_from(queue, min(room - len(claimed), MAX_BATCH))
        except StoreUnavailable:
            await asyncio.sleep(0.2)
        return claimed

    async def _names(self) -> list[str]:
        if not self._only and time.monotonic() - self._queues_read_at > _QUEUES_SECONDS:
            self._queues = await workers.queue_names(self._database)
            self._queues_read_at = time.monotonic()
        return self._queues

    async def _claim_from(self, queue: str, limit: int) -> list[Lease]:
        mark, since = self._marks.get(queue, (None, 0.0))
        if time.monotonic() - since > _FULL_LOOK_SECONDS:
            mark = None
        claimed = await self._ask(queue, limit, mark)
        if mark is not None and len(claimed.leases) < limit:
            rest = await self._ask(queue, limit - len(claimed.leases), None)
            claimed = tasks.Claimed(claimed.leases + rest.leases, rest.reached or claimed.reached)
            mark = None
        if len(claimed.leases) == limit and claimed.reached is not None:
            self._marks[queue] = (claimed.reached, since if mark is not None else time.monotonic())
        else:
            self._marks.pop(queue, None)
        return claimed.leases

    async def _ask(self, queue: str, limit: int, after: tasks.Mark | None) -> tasks.Claimed:
        request = ClaimRequest(self.session_id, uuid.uuid4().hex, queue, self._kinds, limit, after)
        try:
            return await tasks.claim(self._database, request, actor=self._actor)
        except StoreUnavailable as error:
            # Perhaps it was committed and only the answer is lost: the token says which rows are ours.
            return tasks.Claimed(await self._adopt(request.token, str(error)), None)

    async def _adopt(self, token: str, reason: str) -> list[Lease]:
        emit("worker.claim_unanswered", level="warning", reason=reason)
        while True:
            try:
                leases = await tasks.adopt(self._database, self.session_id, token)
            except StoreUnavailable:
                await asyncio.sleep(0.5)
                continue
            if leases:
                emit("worker.claim_adopted", tasks=len(leases))
            return leases
