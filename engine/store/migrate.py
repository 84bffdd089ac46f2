"""The schema's revision: what it is, what it should be, how to get there. Needs no alembic.ini.

Upgrades run on a connection of ours, one upgrader at a time, and print and log nothing by themselves.
"""

from __future__ import annotations

import io
import threading
from contextlib import AbstractContextManager, nullcontext
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from engine.errors import ConfigError, SchemaMismatch


class UpgradeLock(Protocol):
    """What an upgrade needs of a dialect."""

    def migration_lock(self, connection: sa.Connection) -> AbstractContextManager[None]:
        """Hold whatever keeps other upgraders out. Entered and left without an open transaction."""


# Alembic keeps the environment of a running migration in module globals.
_one_in_process = threading.Lock()


def migrations_dir() -> Path:
    """The folder of migrations: inside the package when installed, beside it in a checkout."""
    packaged = Path(str(files("engine"))) / "_migrations"
    checkout = Path(__file__).resolve().parents[2] / "migrations"
    for folder in (packaged, checkout):
        if (folder / "env.py").is_file():
            return folder
    raise ConfigError(f"no migrations in {packaged} or {checkout}: reinstall task-engine")


def upgrade(engine: sa.Engine, dialect: UpgradeLock | None = None) -> None:
    """Bring the schema to this release's revision; nothing happens if it is there already.

    All or nothing, unless a migration commits by itself (`autocommit_block`). Raises `SchemaMismatch` and
    writes nothing if the schema is ahead. Without `dialect` the caller knows that nobody else upgrades.
    """
    # connect(), not begin(): autocommit_block() refuses to work inside a transaction it did not open.
    with (
        _one_in_process,
        engine.connect() as connection,
        dialect.migration_lock(connection) if dialect else nullcontext(),
    ):
        revision = _read_revision(connection)
        connection.rollback()
        if revision is not None and not _is_known(revision):
            raise SchemaMismatch(_ahead(revision))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def upgrade_sql(url: str | sa.URL) -> str:
    """The script that takes an empty database of the kind of `url` to this release; connects to nothing."""
    script = io.StringIO()
    config = _config(output=script)
    config.attributes["url"] = url
    with _one_in_process:
        command.upgrade(config, "head", sql=True)
    return script.getvalue()


def current(engine: sa.Engine) -> str | None:
    """The revision of the database, None if it has no schema yet."""
    with engine.connect() as connection:
        return _read_revision(connection)


def head() -> str:
    """The revision that this release works with."""
    revision = _scripts().get_current_head()
    if revision is None:
        raise ConfigError(f"no migrations in {migrations_dir()}: reinstall task-engine")
    return revision


def check(engine: sa.Engine) -> None:
    """Raise `SchemaMismatch` unless the database has exactly this release's schema."""
    revision = current(engine)
    if revision == head():
        return
    if revision is None:
        raise SchemaMismatch("the database has no schema yet; run `task-engine db upgrade`")
    if _is_known(revision):
        raise SchemaMismatch(
            f"the database schema is behind: it is at revision {revision}, this release needs {head()}; "
            "run `task-engine db upgrade`"
        )
    raise SchemaMismatch(_ahead(revision))


def _ahead(revision: str) -> str:
    return (
        f"the database schema is ahead: its revision {revision} is unknown here (newest known: {head()}), so "
        "a newer release has upgraded it; upgrade task-engine on this machine to at least that release"
    )


def _read_revision(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _is_known(revision: str) -> bool:
    return any(script.revision == revision for script in _scripts().walk_revisions())


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config(output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
