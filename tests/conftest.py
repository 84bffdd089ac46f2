"""Fixtures of the whole suite. Each pytest-xdist worker has servers of its own, so workers share nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.postgres import Server, open_server
from tests.support.template import Template, migrated_template


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
    """`with template.clone() as url:` is a fresh Postgres database with our schema."""
    return migrated_template(cluster)


# ---------------------------------------------------------------------------------------------------
# The `database` fixture (every test that takes it runs on SQLite and on Postgres) goes here.
# ---------------------------------------------------------------------------------------------------
