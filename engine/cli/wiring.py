"""Settings turned into the objects that a process is made of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from engine.cli.program import explained
from engine.errors import ConfigError, SchemaMismatch, StoreUnavailable
from engine.sdk.opening import shown, store_errors
from engine.settings import Settings
from engine.store import migrate
from engine.store.database import Database
from engine.store.dialects import parse_url
from engine.worker.secrecy import hide_secrets

SERVER_TOO = "name a database with --db, or a server with --server"
CONFIG_PLACES = ("configs/engine.yaml", "config/engine.yaml", "engine.yaml")


def found_config(places: Iterable[str] = CONFIG_PLACES) -> str | None:
    """The first of `places` that is there, unless a variable names the settings file."""
    if os.environ.get("ENGINE_CONFIG"):
        return None
    return next((place for place in places if Path(place).is_file()), None)


def is_sqlite(url: str) -> bool:
    return parse_url(url).get_backend_name() == "sqlite"


def hide_secrets_of(settings: Settings) -> None:
    """Keep the tasks of this process from reading its secrets. A URL without a password is none."""
    secrets = [secret.get_secret_value() for secret in (settings.bootstrap_token, settings.token) if secret]
    if parse_url(settings.database).password is not None:
        secrets.append(settings.database)
    hide_secrets(secrets)


def open_database(
    settings: Settings,
    *,
    exclusive: bool = False,
    must_exist: bool = False,
    instead: str = "name a database with --db",
    if_in_use: str = "stop it",
    pool_size: int = 4,
) -> Database:
    """The database of the settings. Raises `ConfigError` for a bad URL, else `StoreUnavailable`.

    `exclusive` counts for SQLite only. With `must_exist` no SQLite file is made; if there is none, the error
    says what to do `instead`; where others keep an exclusive use out, what to do `if_in_use`.
    """
    url = parse_url(settings.database)
    name = url.database or ""
    on_disk = url.get_backend_name() == "sqlite" and name not in ("", ":memory:")
    if must_exist and on_disk and not Path(name).is_file():
        raise StoreUnavailable(f"there is no database file {name}; {instead}")
    try:
        return Database(
            settings.database,
            pool_size=pool_size,
            exclusive=exclusive,
            wake_others=settings.wake,
            run_defaults=settings.run_defaults,
        )
    except ConfigError as error:
        if exclusive and on_disk and (users := _users(name)):
            raise StoreUnavailable(f"{name} is in use by {users}; {if_in_use}") from None
        raise StoreUnavailable(str(error)) from None
    except OSError as error:
        raise StoreUnavailable(f"the database {shown(url)} cannot be opened: {explained(error)}") from None


def _users(path: str) -> str:
    """The processes that hold the claim on a database file, empty if they are not ours to look at."""
    lock = str(Path(f"{path}.lock").resolve())
    return " and ".join(
        f"process {process.pid}"
        for process in psutil.process_iter(["open_files"])
        if any(file.path == lock for file in process.info["open_files"] or ())
    )


def check_schema(database: Database) -> None:
    """Raises `SchemaMismatch`, or `StoreUnavailable` if the database does not answer."""
    with store_errors(database.url):
        try:
            migrate.check(database.engine)
        except SchemaMismatch as error:
            command = "task-engine db upgrade"
            text = str(error).replace(command, f"{command} --db {shown(database.url)}")
            raise SchemaMismatch(text) from None


def upgrade_schema(database: Database) -> None:
    with store_errors(database.url):
        migrate.upgrade(database.engine, database.dialect)
