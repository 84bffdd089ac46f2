"""Fixtures for pytest, installed with the package. Nothing of the engine is loaded before one is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import engine

if TYPE_CHECKING:
    from engine.testing.blocking import SyncHarness
    from engine.testing.databases import FreshDatabases


@pytest.fixture
def task_engine() -> Iterator[SyncHarness]:
    """An engine in memory with a clock of its own, whose methods block: see `engine.testing.SyncHarness`."""
    harness = engine.testing.SyncHarness()
    yield harness
    harness.close()


@pytest.fixture(scope="session")
def _task_engine_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FreshDatabases]:
    url = os.environ.get("TASK_ENGINE_TEST_URL") or None
    fresh = engine.testing.FreshDatabases(url, tmp_path_factory.mktemp("task-engine"))
    yield fresh
    fresh.close()


@pytest.fixture
def task_engine_url(_task_engine_databases: FreshDatabases, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with the schema in it: a SQLite file, or on the Postgres server of
    `TASK_ENGINE_TEST_URL`.
    """
    with _task_engine_databases.one(tmp_path) as url:
        yield url
