"""Claims for one worker: which queues, how far each has been read, and what a lost answer took."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from engine.errors import StoreUnavailable
from engine.model.outcomes import Outcome
from engine.model.records import Lease, Place
from engine.operations import tasks, workers
from engine.store.claims import ClaimRequest
from engine.store.database import Busy, Database
from engine.telemetry import emit

MAX_BATCH = 1_000
_LAYER = 50  # so many that end together tell what kind of graph it is
_FULL_LOOK_SECONDS = 1.0
_QUEUES_SECONDS = 1.0
_DOUBT_SECONDS = 60.0  # twice what the server lets a statement take


class Claimer:
    """Starts each claim where the last one of that queue ended: dead index entries before it cost nothing.

    Rows can become available behind that mark (late commits, higher priorities), so it looks from the
    start again every second, whenever a claim comes back short, and after any hint.

    A busy worker claims along with its outcomes, each time from one queue. It goes through all of them when
    it has nothing to write, or one came back short.
    """

    def __init__(
        self,
        database: Database,
        session_id: int,
        queues: tuple[str, ...],
        kinds: tuple[str, ...],
        actor: str,
        room: Callable[[], int],
        on_leases: Callable[[list[Lease]], None],
        on_more: Callable[[], None],
        most: int = MAX_BATCH,
    ) -> None:
        self._database = database
        self.session_id = session_id
        self._only = queues
        self._queues: list[str] = list(queues)
        self._queues_read_at = float("-inf")
        self._may_be_elsewhere = False  # a hint may have meant a queue, or limits, that we do not know yet
        self._kinds = kinds
        self.actor = actor
        self._room = room
        self._share = most
        self._is_layered = False  # what ended last has about as many tasks below
        self._on_leases = on_leases
        self._on_more = on_more  # another claim may find something, and there is room for it
        self.has_more = True  # as far as we know, more is available than we had room for
        self._expected = 0  # leases that claims under way may bring
        self._was_refused = False  # somebody wanted to claim meanwhile
        self._marks: dict[str, tuple[Place, float]] = {}
        self._has_limits = False  # there are tasks with limits, which are claimed apart from the others
        self._starts: dict[str, str] = {}  # by queue, where to go on among those
        self._limited: set[int] = set()  # ids of those that we hold
        self._turn = 0
        self._asked: set[str] = set()  # the tokens of claims under way
        self._doubt_until = float("-inf")
        self._unknown: set[tuple[int, str]] = set()

    def start_over(self, hinted: str = "") -> None:
        """Look from the start of every queue at the next claim. `hinted` has work; "" if it is not known."""
        self._marks.clear()
        is_new = hinted not in self._queues or not self._has_limits
        self._may_be_elsewhere = self._may_be_elsewhere or is_new

    async def claim(self) -> int:
        """Claim what there is room for, from the queues in turn. An unreachable database gives nothing.

        At most as much as one claim may bring: what is left of the room is for those with outcomes to write.
        """
        room = min(self.room, self._most)
        self.has_more = True
        if room <= 0:
            self._was_refused = self._expected > 0
            if self._may_be_elsewhere or time.monotonic() - self._queues_read_at > _QUEUES_SECONDS:
                with suppress(StoreUnavailable):  # a busy worker claims along from queues that it knows
                    await self._found_queues()
            return 0
        with self._expecting(room):
            try:
                if time.monotonic() - self._queues_read_at > _QUEUES_SECONDS:
                    await self._found_queues()
                claimed = await self._claim_from_all(room)
                # Asked only now: a hint nearly always means a queue that we know.
                if not claimed and self._may_be_elsewhere and await self._found_queues():
                    claimed = await self._claim_from_all(room)
            except StoreUnavailable:
                await asyncio.sleep(0.2)
                return 0
        self.has_more = len(claimed) >= room
        self._on_leases(claimed)
        return len(claimed)

    @property
    def _most(self) -> int:
        """Leases of one claim. In halves, so that the database claims one while we run the other; but where
        layers of tasks depend on each other, what one write cannot take is written once more."""
        return MAX_BATCH if self._is_layered else self._share

    @property
    def room(self) -> int:
        """How many more leases may be asked for."""
        return self._room() - self._expected

    @contextmanager
    def _expecting(self, leases: int) -> Iterator[None]:
        """Claims that are under way at the same time must not share the same room."""
        self._expected += leases
        try:
            yield
        finally:
            self._expected -= leases
            if self._was_refused:
                self._was_refused = False
                self._on_more()

    async def _claim_from_all(self, room: int) -> list[Lease]:
        claimed: list[Lease] = []
        self._turn += 1
        for offset in range(len(self._queues)):
            if len(claimed) >= room:
                break
            queue = self._queues[(self._turn + offset) % len(self._queues)]
            claimed += await self._claim_from(queue, room - len(claimed))
            if self._has_limits and len(claimed) < room:
                claimed += await self._claim_limited_from(queue, room - len(claimed))
        return claimed

    @property
    def may_claim(self) -> bool:
        """There is room, and a queue to claim from."""
        return bool(self._queues) and self.room > 0

    async def claim_along(self, ended: Sequence[tuple[Lease, Outcome]]) -> list[Lease]:
        """Record outcomes and claim, in one transaction; as `tasks.finish`, returns the lost leases.

        If nothing more was available, all that can be claimed is what these outcomes release. Whatever it
        raises, what the claim took is not forgotten.
        """
        self._turn += 1
        queue = self._queues[self._turn % len(self._queues)]
        mark, since = self._mark(queue) if self.has_more else (None, 0.0)
        request = self._request(queue, self.room, mark)
        if not self.has_more:  # nobody else needs the rest of the room
            request = replace(request, room=self.room)
        with self._expecting(max(request.limit, request.room)), self._asking(request):
            try:
                lost, claimed, below = await tasks.finish_and_claim(
                    self._database, ended, request, actor=self.actor
                )
            except Busy:
                raise
            except Exception as error:
                self._on_leases(await self._unanswered(request, error))
                raise
        self._reached(request, claimed, since)
        self._is_layered = len(ended) >= _LAYER and below * 2 >= len(ended)
        is_full = len(claimed) >= request.limit
        if is_full or (mark is None and len(self._queues) == 1):
            self.has_more = is_full
        self._on_leases(claimed)
        self.look_again()
        return lost

    def look_again(self) -> None:
        """Have the rest of the room claimed by itself, if there may be something for it."""
        if self.has_more and self.room > 0:
            self._on_more()

    async def _found_queues(self) -> bool:
        """Look which queues there are, and whether there are limits; whether there is something new."""
        self._may_be_elsewhere = False
        had_limits, self._has_limits = self._has_limits, await tasks.has_limits(self._database)
        self._queues_read_at = time.monotonic()
        if self._only:
            return self._has_limits and not had_limits
        known, self._queues = self._queues, await workers.queue_names(self._database)
        return self._queues != known or (self._has_limits and not had_limits)

    async def _claim_from(self, queue: str, limit: int) -> list[Lease]:
        mark, since = self._mark(queue)
        claimed = await self._ask(self._request(queue, limit, mark), since)
        if mark is not None and len(claimed) < min(limit, self._most):
            claimed += await self._ask(self._request(queue, limit - len(claimed), None))
        return claimed

    async def _ask(self, request: ClaimRequest, since: float = 0.0) -> list[Lease]:
        """Never raises: what earlier questions of the same round have claimed would be forgotten."""
        with self._asking(request):
            try:
                claimed = await tasks.claim(self._database, request, actor=self.actor)
            except Exception as error:
                claimed = await self._unanswered(request, error)
        self._reached(request, claimed, since)
        return claimed

    async def _claim_limited_from(self, queue: str, limit: int) -> list[Lease]:
        request = self._request(queue, limit, None)
        start = self._starts.get(queue, "")
        with self._asking(request):
            try:
                claimed, self._starts[queue] = await tasks.claim_limited(
                    self._database, request, start, actor=self.actor
                )
            except Exception as error:
                claimed = await self._unanswered(request, error)
        self._limited.update(lease.task_id for lease in claimed)
        return claimed

    def ended(self, leases: Iterable[Lease]) -> None:
        """Their ends have been recorded: where one had a limit, another may start now."""
        if self._limited:
            freed = self._limited.intersection(lease.task_id for lease in leases)
            self._limited -= freed
            if freed:
                self._on_more()

    def _request(self, queue: str, limit: int, after: Place | None) -> ClaimRequest:
        limit = min(limit, self._most)
        return ClaimRequest(self.session_id, uuid.uuid4().hex, queue, self._kinds, limit, after)

    @contextmanager
    def _asking(self, request: ClaimRequest) -> Iterator[None]:
        self._asked.add(request.token)
        try:
            yield
        finally:
            self._asked.discard(request.token)

    def _mark(self, queue: str) -> tuple[Place | None, float]:
        """Where to go on, and when it was last looked for from the start."""
        mark, since = self._marks.get(queue, (None, 0.0))
        return (None, 0.0) if time.monotonic() - since > _FULL_LOOK_SECONDS else (mark, since)

    def _reached(self, request: ClaimRequest, claimed: Sequence[Lease], since: float) -> None:
        if len(claimed) >= request.limit:
            place = claimed[-1].place
            if request.after and (mark := self._mark(request.queue)[0]):
                place = max(place, mark)  # another claim may have come further meanwhile
            self._marks[request.queue] = (place, since if request.after else time.monotonic())
        else:
            self._marks.pop(request.queue, None)

    # --- claims whose answer was lost

    async def _unanswered(self, request: ClaimRequest, error: Exception) -> list[Lease]:
        """Whatever the error was, the claim may have been committed: returns what it took."""
        self._doubt_until = time.monotonic() + _DOUBT_SECONDS
        emit("worker.claim_unanswered", level="warning", reason=f"{type(error).__name__}: {error}"[:500])
        return await self._adopt(request.token)

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
            if task_id not in known and token not in self._asked
        }
        lost, self._unknown = unknown & self._unknown, unknown
        found: list[Lease] = []
        for token in {token for _, token in lost}:
            leases = await tasks.adopt(self._database, self.session_id, token)
            found += [lease for lease in leases if (lease.task_id, token) in lost]
        if found:
            emit("worker.claim_adopted", tasks=len(found))
        return found
