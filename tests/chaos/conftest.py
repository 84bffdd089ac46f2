from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine.store import migrate
from engine.store.database import Database
from tests.support.postgres import Cluster


@pytest.fixture(scope="module")
def durable() -> Iterator[Cluster]:
    """A server that may be killed: it keeps what it acknowledged."""
    cluster = Cluster(durable=True, listen="127.0.0.1")
    yield cluster
    cluster.close()


@pytest.fixture
def postgres_url(durable: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    name = "".join(letter for letter in request.node.name if letter.isalnum())[:40].lower()
    url = durable.create_database(name)
    engine = sa.create_engine(url)
    migrate.upgrade(engine)
    engine.dispose()
    yield url
    durable.drop_database(name)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that several processes share."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    database = Database(url)
    migrate.upgrade(database.engine)
    database.close()
    return url
