from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.executors.base import ExecutorSettings
from tests.executors.factories import make_settings
from tests.executors.servers import HttpServer
from tests.support.smtp import SmtpServer


@pytest.fixture
def settings(tmp_path: Path) -> ExecutorSettings:
    return make_settings(tmp_path)


@pytest.fixture
async def receiver(anyio_backend: str) -> AsyncIterator[HttpServer]:
    """Somebody who is told of events over HTTP."""
    async with HttpServer() as server:
        yield server


@pytest.fixture
async def mail_server(anyio_backend: str) -> AsyncIterator[SmtpServer]:
    async with SmtpServer() as server:
        yield server
