"""Claims for one worker: which queues, how far each has been read, and what a lost answer took."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping

from engine.errors import StoreUnavailable
from engine.model.records import Lease
from engine.operations import tasks, workers
from engine.store.database import Database
from engine.store.tasks import ClaimRequest
from engine.telemetry import emit

MAX_BATCH = 500
_FULL_LOOK_SECONDS = 1.0
_QUEUES_SECONDS = 1.0
_DOUBT_SECONDS = 60.0  # twice what the server lets a statement take


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
        self.actor = actor
        self._marks: dict[str, tuple[tasks.Mark, float]] = {}
        self._turn = 0
        self._asked: str | None = None  # the token of the claim under way
        self._doubt_until = float("-inf")
        self._unknown: set[tuple[int, str]] = set()

    def start_over(self) -> None:
        """Look from the start of every queue, and for new queues, at the next claim."""
        self._marks.clear()
        self._queues_read_at = float("-inf")

    async def claim(self, room: int) -> list[Lease]:
        """Up to `room` leases, from the queues in turn. An unreachable database gives none."""
        claimed: list[Lease] = []
        try:
            queues = await self._names()
        except StoreUnavailable:
            await asyncio.sleep(0.2)
            return claimed
        self._turn += 1
        for offset in range(len(queues)):
            if len(claimed) >= room:
                break
            queue = queues[(self._turn + offset) % len(queues)]
            claimed += await self._claim_from(queue, min(room - len(claimed), MAX_BATCH))
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
        """Never raises: what earlier questions of the same round have claimed would be forgotten."""
        request = ClaimRequest(self.session_id, uuid.uuid4().hex, queue, self._kinds, limit, after)
        self._asked = request.token
        try:
            return await tasks.claim(self._database, request, actor=self.actor)
        except Exception as error:  # whatever it was, the claim may have been committed
            self._doubt_until = time.monotonic() + _DOUBT_SECONDS
            emit("worker.claim_unanswered", level="warning", reason=f"{type(error).__name__}: {error}"[:500])
            return tasks.Claimed(await self._adopt(request.token), None)
        finally:
            self._asked = None

    # --- claims whose answer was lost

    async def _adopt(self, token: str) -> list[Lease]:
        """What a claim took whose answer never arrived: the token says which rows are ours."""
        while True:
            await asyncio.sleep(0.2)
            try:
                leases = await tasks.adopt(self._database, self.session_id, token)
            except Exception as error:  # until the database has said which
                if not isinstance(error, StoreUnavailable):
                    emit("worker.adopt_failed", level="error", error=repr(error))
                continue
            if leases:
                emit("worker.claim_adopted", tasks=len(leases))
            return leases

    @property
    def is_in_doubt(self) -> bool:
        """A claim went unanswered lately: the server may commit it even after `_adopt` has looked."""
        return time.monotonic() < self._doubt_until

    async def recover(self, held: Mapping[int, str], known: Collection[int]) -> list[Lease]:
        """Leases among `held` (task id → token) that nobody here knows, at two looks in a row."""
        unknown = {
            (task_id, token)
            for task_id, token in held.items()
            if task_id not in known and token != self._asked
        }
        lost, self._unknown = unknown & self._unknown, unknown
        found: list[Lease] = []
        for token in {token for _, token in lost}:
            leases = await tasks.adopt(self._database, self.session_id, token)
            found += [lease for lease in leases if (lease.task_id, token) in lost]
        if found:
            emit("worker.claim_adopted", tasks=len(found))
        return found
