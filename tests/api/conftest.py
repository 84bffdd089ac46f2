from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

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
