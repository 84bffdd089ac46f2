"""Fixtures of the whole suite. Each pytest-xdist worker has servers of its own, so workers share nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.store import migrate
from engine.store.database import Database
from tests.support.databases import database_for
from tests.support.postgres import Server, open_server
from tests.support.template import Give, Template, migrated_template


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    """A running Postgres. Tests that stop, kill or configure one make a `Cluster` of their own."""
    server = open_server()
    yield server
    server.close()


@pytest.fixture(scope="session")
def template(cluster: Server) -> Template:
    """`with template.lend() as url:` is an empty Postgres database with our schema."""
    return migrated_template(cluster)


# --- an empty database for each test


@pytest.fixture
def give(template: Template) -> Give:
    """Postgres databases, which may have served other tests: see `tests.support.fresh`."""
    return template.lend


@pytest.fixture(scope="session")
def empty_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed SQLite file with our schema, to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    database = Database(f"sqlite:///{path}", wake_others=False)
    migrate.upgrade(database.engine)
    database.close()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database with our schema, one of each kind."""
    with database_for(request, tmp_path) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Every test that takes it runs on SQLite and on Postgres."""
    database = Database(database_url, wake_others=False)
    yield database
    database.close()


@pytest.fixture
def row_locking_url(give: Give) -> Iterator[str]:
    """An empty database where several transactions write at once, so that they can meet."""
    with give() as url:
        yield url


@pytest.fixture
def row_locking(row_locking_url: str) -> Iterator[Database]:
    database = Database(row_locking_url, pool_size=12, wake_others=False)
    yield database
    database.close()
