"""Functions that processes have registered. The database keeps their names and schemas, never code."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from engine.store import functions as store
from engine.store.database import Database
from engine.store.functions import KnownFunction


async def register(
    database: Database, described: Sequence[Mapping[str, Any]], session_id: int | None = None
) -> None:
    """Keep what this process can call; see `FunctionRegistry.describe`. A worker says which session it is."""
    if described:
        await database.run(store.register, described, session_id)


async def names(database: Database) -> list[str]:
    """Every function that some process has ever registered."""
    return await database.read(store.names)


async def are_somewhere(database: Database, names: Collection[str], task_id: int) -> bool:
    """Whether a live worker that takes from the queue of this task has code for all of them."""
    return await database.read(store.are_somewhere, names, task_id)


async def given_back(database: Database, task_id: int, code: str) -> int:
    """How many attempts of the task were released with `code`, the first dozen."""
    return await database.read(store.given_back, task_id, code)


async def list_functions(
    database: Database, *, is_missing: bool | None = None, limit: int = 1000, offset: int = 0
) -> tuple[int, list[KnownFunction]]:
    """How many there are, and some of them by name. A missing one is one that no live worker has."""
    return await database.read(
        lambda tx: store.list_functions(tx, is_missing=is_missing, limit=limit, offset=offset)
    )
