"""The schema of a fresh database in memory: migrated once in a process, then written down at once."""

from __future__ import annotations

import threading
from typing import Any

from engine.store import migrate
from engine.store.database import Database

_lock = threading.Lock()
_scripts: list[str] = []  # one, once there is one


def give_schema(database: Database) -> None:
    """Bring an empty database in memory to this release's schema, from the second on in milliseconds."""
    with _lock:
        if not _scripts:
            migrate.upgrade(database.engine, database.dialect)
            _scripts.append(_script(database))
            return
    with database.engine.connect() as connection:
        _driver(connection).executescript(_scripts[0])


def _script(database: Database) -> str:
    with database.engine.connect() as connection:
        return "\n".join(_driver(connection).iterdump())


def _driver(connection: Any) -> Any:
    """The driver's own connection: no transaction begins by asking for it."""
    return connection.connection.driver_connection
