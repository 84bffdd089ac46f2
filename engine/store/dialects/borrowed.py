"""What differs between databases when a caller owns the connection and its transaction."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from engine.errors import ConfigError, InvalidInput, SchemaMismatch, StoreUnavailable
from engine.store.dialects.base import Dialect, Executes
from engine.store.dialects.postgres import PostgresDialect, draw
from engine.store.dialects.sqlite import FileClaim, SqliteDialect, _add_functions, wal_is_safe_for_many
from engine.store.schema import BLOCK_SIZE

_NO_SCHEMA = "the connection's database has no tables of the engine; run `task-engine db upgrade` on it"


class Borrowed(Dialect):
    """A dialect on a connection of a caller's."""

    aborts_on_error: bool  # a failed statement dooms the transaction, so no half of a run can be committed

    def enter(self, connection: sa.Connection) -> None:
        """Raise unless what we write is committed by the caller and by nobody else."""
        raise NotImplementedError

    def explained(self, error: sa.exc.DBAPIError) -> Exception:
        """The error to raise instead of `error`: one of ours if the caller can do something about it."""
        return error


class BorrowedPostgres(PostgresDialect, Borrowed):
    aborts_on_error = True

    def enter(self, connection: sa.Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        if connection.dialect.detect_autocommit_setting(driver) and not _is_in_transaction(driver):
            raise InvalidInput(
                "the connection commits each statement by itself (autocommit), so a run could be stored by "
                "halves; open a transaction first, as in `with connection.transaction(): …`"
            )

    def allocate(self, tx: Executes, name: str, count: int) -> list[int]:
        # The rest of a block is not kept: two databases may hide behind the same URL of a caller's engine.
        size = BLOCK_SIZE[name]
        return [first + i for first in sorted(draw(tx, name, -(-count // size))) for i in range(size)][:count]

    def explained(self, error: sa.exc.DBAPIError) -> Exception:
        if getattr(error.orig, "sqlstate", None) == "42P01":
            return SchemaMismatch(_NO_SCHEMA)
        return error


class BorrowedSqlite(SqliteDialect, Borrowed):
    aborts_on_error = False

    def enter(self, connection: sa.Connection) -> None:
        self._refuse_unsafe_sharing(connection)
        self.prepare(connection)
        try:
            # Changes nothing, but takes the write lock, and lets drivers begin that do so by themselves.
            connection.exec_driver_sql("DELETE FROM id_block WHERE 0")
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
                raise SchemaMismatch(_NO_SCHEMA) from error
            raise self.explained(error) from error
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            raise InvalidInput(
                "the connection commits each statement by itself (autocommit), so a run could be stored by "
                "halves; open a transaction first: BEGIN IMMEDIATE"
            )

    def prepare(self, connection: sa.Connection) -> None:
        # Functions cannot be replaced while a cursor of the caller's is open; then they are there already.
        driver: Any = connection.connection.dbapi_connection
        with suppress(sqlite3.OperationalError):
            _add_functions(driver)

    def _refuse_unsafe_sharing(self, connection: sa.Connection) -> None:
        """An engine that has a WAL file to itself counts on being its only writer (the WAL-reset race)."""
        if wal_is_safe_for_many():
            return
        path = connection.exec_driver_sql("PRAGMA database_list").all()[0][2]
        if path and connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal":
            try:
                FileClaim(sa.URL.create("sqlite", database=path), exclusive=False).close()
            except ConfigError:
                raise ConfigError(
                    f"{path} belongs to one engine alone, and SQLite {sqlite3.sqlite_version} can corrupt a "
                    "WAL file with two writers; open that engine with `shared=True` (server: --shared), or "
                    "use SQLite 3.51.3 or newer"
                ) from None

    def explained(self, error: sa.exc.DBAPIError) -> Exception:
        if not self.is_rerunnable(error):
            return error
        return StoreUnavailable(
            "the SQLite file is locked by another writer, or your transaction began by reading and another "
            "connection has written since; roll back, begin with BEGIN IMMEDIATE and try again"
        )


_BORROWED: dict[str, Borrowed] = {"postgresql": BorrowedPostgres(), "sqlite": BorrowedSqlite()}


def borrowed_dialect(connection: sa.Connection) -> Borrowed:
    """Raises `InvalidInput` for a database that the engine does not work with."""
    try:
        return _BORROWED[connection.dialect.name]
    except KeyError:
        raise InvalidInput(
            f"database {connection.dialect.name!r} is not supported; use Postgres or SQLite"
        ) from None


def _is_in_transaction(driver: Any) -> bool:
    """Whether a driver that commits by itself was told BEGIN; False if it cannot say."""
    return bool(getattr(getattr(driver, "info", None), "transaction_status", 0))
