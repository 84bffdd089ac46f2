from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.executors.base import ExecutorSettings
from tests.api.conftest import service
from tests.executors.factories import make_settings
from tests.executors.servers import HttpServer, TcpServer

__all__ = ["service"]


@pytest.fixture
def settings(tmp_path: Path) -> ExecutorSettings:
    return make_settings(tmp_path)


@pytest.fixture
async def http_server(anyio_backend: str) -> AsyncIterator[HttpServer]:
    async with HttpServer() as server:
        yield server


@pytest.fixture
async def tcp_server(anyio_backend: str) -> AsyncIterator[TcpServer]:
    async with TcpServer() as server:
        yield server
