from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from engine.store import migrate
from tests.support.postgres import Cluster


@pytest.fixture
def server_url() -> Iterator[tuple[Cluster, str]]:
    """A server that may be killed, and a database with our schema in it."""
    cluster = Cluster(durable=True)
    try:
        url = cluster.create_database("mine")
        engine = sa.create_engine(url)
        migrate.upgrade(engine)
        engine.dispose()
        yield cluster, url
    finally:
        cluster.close()
