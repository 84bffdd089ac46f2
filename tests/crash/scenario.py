"""One life of some runs, with everything that writes. Each step can be said again after an unknown answer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from engine.errors import StoreUnavailable
from engine.model.graph import Graph
from engine.model.outcomes import Awaiting, Cancelled, Failed, Outcome, Released, Succeeded
from engine.model.records import Lease
from engine.model.states import RunState
from engine.operations import runs, submits, tasks, workers
from engine.store.claims import ClaimRequest
from engine.store.database import Database
from tests.factories import graph, spec

T = TypeVar("T")


class Scenario:
    """Uses a queue of its own, so that many scenarios can share a database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.name = uuid.uuid4().hex
        self.run_ids: list[int] = []
        self.unanswered = 0

    def play(self) -> None:
        asyncio.run(self._play())

    async def _play(self) -> None:
        one, other = await self._session(), await self._session()
        diamond = await self._submit("a -> b, c -> d")
        failing = await self._submit("f -> g -> h")
        held = await self._claim(one, 1)
        await self._finish(*((lease, Succeeded({"n": 1})) for lease in held))
        await self._again(lambda: runs.hold(self.database, diamond))
        [f] = await self._claim(one, 5)
        await self._finish((f, Failed("no", is_permanent=True)))
        await self._again(lambda: runs.resume(self.database, diamond))
        b, c = await self._claim(other, 5)
        await self._finish((b, Succeeded()), (c, Released()))
        await self._retry(failing)
        leases = {lease.name: lease for lease in await self._claim(other, 5)}
        await self._expire(other)
        leases = {lease.name: lease for lease in await self._claim(one, 5)}
        await self._finish((leases["c"], Succeeded()))
        await self._again(lambda: runs.cancel(self.database, failing))
        await self._finish((leases["f"], Cancelled()))
        [d] = await self._claim(one, 5)
        await self._again(
            lambda: tasks.append_logs(self.database, [(d.holder, 1, datetime.now(UTC), "log", "x")])
        )
        await self._again(lambda: tasks.report(self.database, d, {"percent": 50}))
        children = [replace(child, queue=self.name) for child in (spec("x"), spec("y", "x"))]
        await self._again(lambda: tasks.spawn(self.database, d, children, actor="worker"))
        await self._finish((d, Succeeded()))
        [x] = await self._claim(one, 5)
        await self._finish((x, Failed("no")))
        await self._wait_for_a_sub_task(one)
        await self._retry(diamond)
        [x] = await self._claim(one, 5)
        await self._again(lambda: workers.end(self.database, one, "stopped"))
        await self._again(lambda: runs.cancel(self.database, diamond))
        await self._again(lambda: runs.prune(self.database, finished_seconds=3600))

    async def _wait_for_a_sub_task(self, session_id: int) -> None:
        await self._submit("s -> t")
        [s] = await self._claim(session_id, 5)
        part = replace(spec("part"), queue=self.name)
        await self._again(lambda: tasks.spawn(self.database, s, [part], actor="worker", awaited=True))
        await self._finish((s, Awaiting()))
        for name in ("part", "s", "t"):
            [lease] = await self._claim(session_id, 5)
            assert lease.name == name
            await self._finish((lease, Succeeded()))

    # --- steps, each as a careful caller takes it

    async def _again(self, operation: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """For what may simply be repeated."""
        while True:
            try:
                return await operation()
            except StoreUnavailable:
                self.unanswered += 1

    async def _session(self) -> int:
        registration = workers.Registration(self.name, "host", 1, "0", [], 1)
        return await self._again(lambda: workers.register(self.database, registration))

    async def _submit(self, text: str) -> int:
        submitted = Graph(tuple(replace(one, queue=self.name) for one in graph(text).tasks), name=text)
        key = submits.Key(self.name, text, "body")
        accepted = await self._again(
            lambda: submits.submit(self.database, submitted, contract=self.name, key=key)
        )
        self.run_ids.append(accepted.run_id)
        return accepted.run_id

    async def _claim(self, session_id: int, limit: int) -> list[Lease]:
        request = ClaimRequest(session_id, uuid.uuid4().hex, self.name, ("noop",), limit)
        while True:
            try:
                leases = await tasks.claim(self.database, request, actor="worker")
            except StoreUnavailable:
                self.unanswered += 1
                leases = await self._again(lambda: tasks.adopt(self.database, session_id, request.token))
                if not leases:
                    continue
            return leases

    async def _finish(self, *ended: tuple[Lease, Outcome]) -> None:
        lost = await self._again(lambda: tasks.finish(self.database, list(ended), actor="worker"))
        assert lost == [], "an outcome was refused although its lease held"

    async def _retry(self, run_id: int) -> None:
        """Said twice it would be refused: look first."""
        while (await self._again(lambda: runs.get(self.database, run_id))).state is RunState.FAILED:
            try:
                await runs.retry(self.database, run_id)
            except StoreUnavailable:
                self.unanswered += 1

    async def _expire(self, session_id: int) -> None:
        seen: Sequence[Any] = await self._again(lambda: workers.live(self.database))
        for one in seen:
            if one.id == session_id:
                await self._again(lambda one=one: workers.expire(self.database, one, 0))  # type: ignore[misc]
