from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.executors.base import ExecutorSettings
from engine.executors.function import FunctionExecutor
from engine.functions.registry import FunctionRegistry
from tests.api.conftest import service
from tests.executors.calling import Make
from tests.executors.factories import make_settings
from tests.executors.servers import HttpServer, TcpServer
from tests.executors.worlds import World

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


@pytest.fixture
async def world(anyio_backend: str) -> World:
    return World()


@pytest.fixture
async def make(world: World, settings: ExecutorSettings) -> AsyncIterator[Make]:
    """An executor of these functions; closed in the end."""
    made: list[FunctionExecutor] = []

    def make(*functions: Any, **options: Any) -> FunctionExecutor:
        given = {"settings": settings, "ports": world.ports, "threads": 4, "processes": 2, **options}
        made.append(FunctionExecutor(FunctionRegistry(functions), **given))
        return made[-1]

    yield make
    for executor in made:
        await executor.close()
