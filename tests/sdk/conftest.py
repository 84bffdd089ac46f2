"""Callers of every kind, each on every database that it can reach."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from engine.store.database import Database
from engine.store.schema import metadata
from tests.sdk.callers import CALLERS, Caller
from tests.support.databases import database_for

T = TypeVar("T")
Contents = Callable[[], dict[str, list[tuple[Any, ...]]]]
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def run() -> Iterator[Run[Any]]:
    """One event loop for a whole test: asynchronous connections belong to the loop that opened them."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def caller_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """As `database_url`, of the kind that goes with the caller."""
    with database_for(request, tmp_path) as url:
        yield url


@pytest.fixture
def contents(caller_url: str) -> Iterator[Contents]:
    """What all of the engine's tables hold, as somebody else sees it."""
    database = Database(caller_url, wake_others=False)

    def read() -> dict[str, list[tuple[Any, ...]]]:
        return database.read_sync(
            lambda tx: {
                table.name: sorted((tuple(row) for row in tx.execute(sa.select(table))), key=repr)
                for table in metadata.sorted_tables
            }
        )

    yield read
    database.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Pairs of caller and database, without those that do not go together."""
    if "caller" in metafunc.fixturenames:
        pairs = [(kind, database) for kind in CALLERS for database in kind.databases]
        names = [f"{kind.__name__}-{database}" for kind, database in pairs]
        metafunc.parametrize(("caller", "caller_url"), pairs, ids=names, indirect=True)


@pytest.fixture
def caller(
    request: pytest.FixtureRequest, caller_url: str, contents: Contents, run: Run[Any]
) -> Iterator[Caller]:
    """A program connected to a fresh database in which it has a table of its own."""
    contents()  # the engine decides on the journal of a SQLite file, which takes it alone for a moment
    caller: Caller = request.param(caller_url)
    run(caller.open())
    run(caller.execute("CREATE TABLE orders (id INTEGER)"))
    run(caller.commit())
    yield caller
    run(caller.rollback())
    run(caller.close())
