"""The application under test, with everything around it that a server would have."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import sqlalchemy as sa
from litestar import Litestar

from engine.api.app import Routes, create_app
from engine.api.options import ApiOptions
from engine.executors.base import ExecutorSettings
from engine.executors.registry import ExecutorRegistry
from engine.store.database import Database, Transaction
from engine.store.schema import metadata
from engine.worker.options import WorkerOptions
from engine.worker.service import Worker

FINAL = frozenset({"success", "failed", "skipped"})
_PATIENCE_SECONDS = 20
# Of services that have ended. The OpenAPI document says whether tokens are required.
_spare: dict[bool, list[Routes]] = {False: [], True: []}


def options(**changes: Any) -> ApiOptions:
    return replace(ApiOptions(version="v1.0.0", started_at=datetime.now(UTC)), **changes)


def registry(file_root: Path) -> ExecutorRegistry:
    return ExecutorRegistry.from_entry_points(ExecutorSettings(file_root=file_root))


@dataclass
class Service:
    """One database, one application, a client of it, and a worker when asked for."""

    database: Database
    registry: ExecutorRegistry
    app: Litestar
    client: httpx.AsyncClient = field(init=False)
    _taken: tuple[list[Routes], Routes] | None = None

    @classmethod
    def of(cls, database: Database, file_root: Path, **changes: Any) -> Service:
        executors, chosen = registry(file_root), options(**changes)
        spare = _spare[chosen.require_token]
        routes = spare.pop() if spare else Routes(executors, chosen)
        made = cls(database, executors, create_app(database, executors, chosen, routes))
        made._taken = (spare, routes)
        return made

    async def __aenter__(self) -> Service:
        transport = httpx.ASGITransport(self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://localhost:8080")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.settle()
        if self._taken is not None:
            spare, routes = self._taken
            spare.append(routes)

    async def settle(self) -> None:
        """Wait for what goes on behind the answers."""
        for close in self.app.on_shutdown:
            await close()  # type: ignore[call-arg,misc]

    @asynccontextmanager
    async def working(self, **changes: Any) -> AsyncIterator[Worker]:
        worker_options = WorkerOptions(**{"concurrency": 4, "capture_output": False, **changes})
        async with Worker(self.database, self.registry, worker_options) as worker:
            yield worker

    async def submit(self, *tasks: dict[str, Any], **headers: str) -> httpx.Response:
        return await self.client.post("/tasks", json={"tasks": list(tasks)}, headers=headers)

    async def poll(self, path: str, statuses: Collection[str] = FINAL, key: str = "status") -> dict[str, Any]:
        """Ask until the answer's `key` is one of `statuses`."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            response = await self.client.get(path)
            assert response.status_code == 200, response.text
            answer: dict[str, Any] = response.json()
            if answer[key] in statuses:
                return answer
            assert time.monotonic() < deadline, f"{path} is still {answer[key]}"
            await anyio.sleep(0.02)

    def rows(self) -> dict[str, int]:
        """How many rows each table has, except for counters and the bookkeeping of ids and migrations."""
        return self.database.read_sync(_count)


def _count(tx: Transaction) -> dict[str, int]:
    tables = [t for t in metadata.sorted_tables if t.name not in ("counter", "id_block", "alembic_version")]
    return {t.name: tx.execute(sa.select(sa.func.count()).select_from(t)).scalar_one() for t in tables}
