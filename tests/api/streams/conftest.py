"""A server whose sockets are listened to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.api.server import new_event_loop
from engine.store.database import Database
from tests.api.test_server import Running, running


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop that serves in earnest."""
    return "asyncio", {"loop_factory": new_event_loop}


@pytest.fixture
async def server(database: Database, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(database, tmp_path) as server:
        yield server
