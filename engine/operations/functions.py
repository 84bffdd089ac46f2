"""Functions that processes have registered. The database keeps their names and schemas, never code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.store import functions as store
from engine.store.database import Database


async def register(database: Database, described: Sequence[Mapping[str, Any]]) -> None:
    """Keep what this process can call; see `FunctionRegistry.describe`."""
    if described:
        await database.run(store.register, described)


async def names(database: Database) -> list[str]:
    """Every function that some process has ever registered."""
    return await database.read(store.names)


async def list_functions(database: Database, *, limit: int = 1000, offset: int = 0) -> list[Any]:
    """By name: (name, description, origin, schema, registered_at)."""
    return await database.read(lambda tx: store.list_functions(tx, limit=limit, offset=offset))
