"""SQLAlchemy connections over bare driver connections of a caller.

Only cursors are taken from them. Beginning, committing, rolling back, resetting and closing do nothing,
and what the caller set (row factories, adapters, isolation) neither changes nor matters.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
import sqlalchemy as sa
from psycopg.rows import tuple_row
from sqlalchemy.dialects.postgresql import psycopg as sa_psycopg
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import greenlet_spawn

T = TypeVar("T")


class _LeavesTransactionsAlone:
    """For SQLAlchemy dialects: every step that would end or reset the caller's transaction is empty."""

    def do_begin(self, dbapi_connection: Any) -> None: ...
    def do_commit(self, dbapi_connection: Any) -> None: ...
    def do_rollback(self, dbapi_connection: Any) -> None: ...
    def do_close(self, dbapi_connection: Any) -> None: ...
    def do_terminate(self, dbapi_connection: Any) -> None: ...
    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        return False  # the caller's pool finds out by itself


class _Postgres(_LeavesTransactionsAlone, sa_psycopg.PGDialect_psycopg):
    supports_statement_cache = True


class _PostgresAsync(_LeavesTransactionsAlone, sa_psycopg.PGDialectAsync_psycopg):
    supports_statement_cache = True


class _Sqlite(_LeavesTransactionsAlone, SQLiteDialect_pysqlite):
    supports_statement_cache = True


class _PlainCursors:
    """A driver connection whose cursors are of the plain kind, whatever factories the caller set."""

    def __init__(self, connection: Any, cursor: Callable[[Any], Any]) -> None:
        self._connection = connection
        self._cursor = cursor

    def cursor(self) -> Any:
        return self._cursor(self._connection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _PlainAsyncCursor(sa_psycopg.AsyncAdapt_psycopg_cursor):
    __slots__ = ()

    def _make_new_cursor(self, connection: Any) -> Any:
        return psycopg.AsyncCursor(connection, row_factory=tuple_row)


class _PlainAsyncCursors(sa_psycopg.AsyncAdapt_psycopg_connection):
    __slots__ = ()

    def cursor(self, name: Any = None, /) -> Any:
        return _PlainAsyncCursor(self)


# Made once: compiled statements are kept per dialect.
def _made(dialect: Any) -> Any:
    return dialect(dbapi=dialect.import_dbapi())


_POSTGRES = _made(_Postgres)
_POSTGRES_ASYNC = _made(_PostgresAsync)
_SQLITE = _made(_Sqlite)
_compiled: dict[Any, Any] = {}


@contextmanager
def opened(handle: psycopg.Connection[Any] | sqlite3.Connection) -> Iterator[sa.Connection]:
    """A SQLAlchemy connection on `handle`; errors of the database come out as the driver's own."""
    if isinstance(handle, psycopg.Connection):
        plain = _PlainCursors(handle, lambda found: psycopg.Cursor(found, row_factory=tuple_row))
        with _connected(_POSTGRES, plain) as connection:
            yield connection
        return
    text_factory, handle.text_factory = handle.text_factory, str
    try:
        with _connected(_SQLITE, _PlainCursors(handle, sqlite3.Cursor)) as connection:
            yield connection
    finally:
        handle.text_factory = text_factory


async def run_async(handle: psycopg.AsyncConnection[Any], work: Callable[[sa.Connection], T]) -> T:
    """Run `work` with a SQLAlchemy connection on `handle`, on the caller's event loop."""

    def run() -> T:
        plain = _PlainAsyncCursors(_POSTGRES_ASYNC.dbapi, cast(Any, handle))
        with _connected(_POSTGRES_ASYNC, plain) as connection:
            return work(connection)

    return await greenlet_spawn(run)


@contextmanager
def _connected(dialect: Any, driver_connection: Any) -> Iterator[sa.Connection]:
    # Not create_engine(): its listeners would initialise the connection and set things on it.
    pool = sa.NullPool(lambda: driver_connection, reset_on_return=None, dialect=dialect)
    engine = sa.Engine(pool, dialect, sa.make_url(f"{dialect.name}+{dialect.driver}://"))
    try:
        with engine.connect() as connection:
            yield connection.execution_options(compiled_cache=_compiled)
    except sa.exc.DBAPIError as error:
        assert error.orig is not None
        raise error.orig from None
