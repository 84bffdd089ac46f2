"""Callers of every kind, each on every database that it can reach."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from engine.store.database import Database
from engine.store.schema import metadata
from tests.sdk.callers import CALLERS, Caller

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture
def run() -> Iterator[Run[Any]]:
    """One event loop for a whole test: asynchronous connections belong to the loop that opened them."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(params=CALLERS, ids=lambda kind: kind.__name__)
def caller(request: pytest.FixtureRequest, database_url: str, run: Run[Any]) -> Iterator[Caller]:
    """A program connected to a fresh database in which it has a table of its own."""
    if sa.make_url(database_url).get_backend_name() not in request.param.databases:
        pytest.skip("no such handle for this database")
    caller: Caller = request.param(database_url)
    run(caller.open())
    run(caller.execute("CREATE TABLE orders (id INTEGER)"))
    run(caller.commit())
    yield caller
    run(caller.rollback())
    run(caller.close())


@pytest.fixture
def contents(database_url: str) -> Iterator[Callable[[], dict[str, list[tuple[Any, ...]]]]]:
    """What all of the engine's tables hold, as somebody else sees it."""
    database = Database(database_url, wake_others=False)

    def read() -> dict[str, list[tuple[Any, ...]]]:
        return database.read_sync(
            lambda tx: {
                table.name: sorted((tuple(row) for row in tx.execute(sa.select(table))), key=repr)
                for table in metadata.sorted_tables
            }
        )

    yield read
    database.close()
