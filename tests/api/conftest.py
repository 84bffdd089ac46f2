from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.operations import runs
from engine.store.database import Database
from tests.api.service import Service


@pytest.fixture
async def service(database: Database, tmp_path: Path) -> AsyncIterator[Service]:
    """The application as it is on loopback, on every database; no worker runs."""
    async with Service.of(database, tmp_path) as service:
        yield service


@pytest.fixture
async def guarded(database: Database, tmp_path: Path) -> AsyncIterator[Service]:
    """The application as it is on any other address: tokens are required."""
    async with Service.of(database, tmp_path, require_token=True, bootstrap_token="b" * 40) as service:
        yield service


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set once somebody has asked for events and there were none: a long poll waits."""
    nothing, events = asyncio.Event(), runs.events

    async def watched(*args: Any, **more: Any) -> Any:
        found = await events(*args, **more)
        if not found:
            nothing.set()
        return found

    monkeypatch.setattr(runs, "events", watched)
    return nothing
