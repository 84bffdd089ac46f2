from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.store.database import Database
from tests.store.meeting import Meeting
from tests.support.postgres import Server


@pytest.fixture
def meeting(row_locking_url: str) -> Iterator[Meeting]:
    """For tests whose transactions run side by side, on a database that can do that."""
    meeting = Meeting(row_locking_url)
    yield meeting
    meeting.close()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'engine.db'}"
        return
    server: Server = request.getfixturevalue("cluster")
    yield server.create_database("empty")
    server.drop_database("empty")


@pytest.fixture
def empty(url: str) -> Iterator[Database]:
    database = Database(url, wake_others=False)
    yield database
    database.close()
