"""SQLite: one writer at a time, `BEGIN IMMEDIATE`, FULL durability on every connection.

Never open the database file except through SQLite: closing any descriptor of it drops the process's
locks on it (research: an acknowledged commit was lost that way). Side files of ours end in `.lock`
(who may use the file) and `.turn` (whose turn it is to write).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite import pysqlite

from engine.errors import ConfigError
from engine.store.dialects.base import Dialect, Durability, Executes
from engine.store.prepared import Prepared
from engine.store.schema import Id, id_block
from engine.store.turn import Turn

BUSY_TIMEOUT_MS = 10_000
# Releases in which several writing connections cannot corrupt a WAL file (the WAL-reset race).
_SAFE_WAL = ((3, 51, 3), (3, 50, 7), (3, 44, 6))
_AT_FAULT = {sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT}
_WATCH_SECONDS = 0.02


def wal_is_safe_for_many(version: tuple[int, int, int] = sqlite3.sqlite_version_info) -> bool:
    """Whether several processes may share a WAL file with this SQLite library."""
    if version[:2] > (3, 51):
        return True
    return any(version[:2] == safe[:2] and version >= safe for safe in _SAFE_WAL)


_JSON: dict[str, Any] = {
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
}


class _Moment(sqlite.DATETIME):
    """Times are kept as text. SQLAlchemy's own way to read them took a tenth of all work for a task."""

    def result_processor(self, dialect: Any, coltype: object) -> Any:
        return _moment_of


def _moment_of(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text + "+00:00")


def _pysqlite() -> sa.engine.Dialect:
    dialect = pysqlite.dialect(**_JSON)
    dialect.colspecs = {**dialect.colspecs, sa.DateTime: _Moment}
    return dialect


class SqliteDialect(Dialect):
    drivername = "sqlite+pysqlite"
    sql = _pysqlite()
    locks_rows = False

    def create_engine(self, url: sa.URL, *, pool_size: int, exclusive: bool) -> sa.Engine:
        options: dict[str, Any] = {"poolclass": sa.StaticPool}
        if not in_memory(url):
            options = {"poolclass": sa.QueuePool, "pool_size": pool_size, "max_overflow": 0}
        engine = sa.create_engine(
            url,
            connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_MS / 1000},
            **_JSON,
            **options,
        )
        journal = "WAL" if exclusive or wal_is_safe_for_many() else "TRUNCATE"

        @sa.event.listens_for(engine, "connect")
        def _on_connect(connection: sqlite3.Connection, record: Any) -> None:
            connection.isolation_level = None  # we say BEGIN ourselves
            _add_functions(connection)
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("PRAGMA synchronous = FULL")

        @sa.event.listens_for(engine, "begin")
        def _on_begin(connection: sa.Connection) -> None:
            # A deferred transaction that writes later fails at once when another commit came between.
            read_only = connection.get_execution_options().get("read_only")
            connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

        return engine

    def now(self) -> sa.ColumnElement[Any]:
        return sa.func.engine_now(type_=sa.DateTime(timezone=True))

    def later(self, milliseconds: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        # Asked once for all rows that need not wait: a call for each took a tenth of a submit.
        later = sa.func.engine_later(milliseconds, type_=sa.DateTime(timezone=True))
        return sa.case((milliseconds == 0, self.now()), else_=later)

    def recordset(self, name: str, columns: Mapping[str, sa.types.TypeEngine[Any]]) -> Any:
        rows = sa.func.json_each(sa.bindparam(name, type_=sa.Text)).table_valued("value", name=f"{name}_rows")
        picked = [
            sa.type_coerce(sa.func.json_extract(rows.c.value, sa.literal_column(f"'$[{i}]'")), type_).label(
                key
            )
            for i, (key, type_) in enumerate(columns.items())
        ]
        return sa.select(*picked).select_from(rows).subquery(name)

    def candidates(self, column: sa.ColumnElement[Any], query: sa.Select[Any]) -> sa.ColumnElement[bool]:
        return column.in_(query)

    def is_any(self, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
        rows = sa.func.json_each(sa.bindparam(name, type_=sa.Text)).table_valued("value", name=f"{name}_list")
        return column.in_(sa.select(rows.c.value))

    def array(self, values: Iterable[Any]) -> Any:
        return msgspec.json.encode(list(values)).decode()

    def insert(self, table: sa.Table) -> Any:
        return sqlite.insert(table)

    def allocate(self, tx: Executes, name: str, count: int) -> list[int]:
        end: int = tx.execute(_ALLOCATE, {"name": name, "first": 1 + count, "by": count}).scalar_one()
        return list(range(end - count, end))

    def is_rerunnable(self, error: BaseException) -> bool:
        return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}

    def is_disconnect(self, error: BaseException) -> bool:
        return _code(error) in {
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_IOERR,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_READONLY,
        }

    def is_unavailable(self, error: BaseException) -> bool:
        return _code(error) in _AT_FAULT or super().is_unavailable(error)

    def is_duplicate(self, error: BaseException) -> bool:
        original = getattr(error, "orig", error)
        code = getattr(original, "sqlite_errorcode", None)
        return code in {sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY}

    def subscribe(self, url: sa.URL, on_hint: Callable[[str], None]) -> FileWatch:
        return FileWatch(url, on_hint)

    def durability(self, connection: sa.Connection) -> Durability:
        synchronous = connection.exec_driver_sql("PRAGMA synchronous").scalar_one()
        journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
        remarks = []
        if synchronous < 2:
            remarks.append("synchronous is below FULL: a power cut can lose the last commits")
        if journal == "memory" or in_memory(connection.engine.url):
            remarks.append("the database is in memory: nothing survives the process")
        names = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
        level = f"synchronous={names.get(synchronous, synchronous)}, journal_mode={journal}"
        return Durability(level, not remarks, tuple(remarks))

    def facts(self, connection: sa.Connection) -> dict[str, Any]:
        return {
            "database": f"SQLite {sqlite3.sqlite_version}",
            "journal_mode": connection.exec_driver_sql("PRAGMA journal_mode").scalar_one(),
            "wal_is_safe_for_many": wal_is_safe_for_many(),
            "file": connection.engine.url.database or ":memory:",
            "clock": datetime.now(UTC),
        }


def _allocate() -> Prepared:
    by = sa.bindparam("by", type_=Id)
    insert = sqlite.insert(id_block).values(
        name=sa.bindparam("name", type_=sa.Text), next=sa.bindparam("first", type_=Id)
    )
    more = insert.on_conflict_do_update(index_elements=["name"], set_={"next": id_block.c.next + by})
    return Prepared(more.returning(id_block.c.next), SqliteDialect.sql)


_ALLOCATE = _allocate()


def in_memory(url: sa.URL) -> bool:
    return url.database in (None, "", ":memory:")


class FileClaim:
    """Who may use a database file: one process alone, or any number that share it.

    Held by a lock on `<file>.lock`, which the kernel drops when the process ends, however it ends.
    """

    def __init__(self, url: sa.URL, *, exclusive: bool) -> None:
        assert url.database is not None
        path = Path(url.database)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            fcntl.flock(self._descriptor, mode | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._descriptor, 100, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise ConfigError(_refusal(path, owner, exclusive)) from None
        if exclusive:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"process {os.getpid()}\n".encode(), 0)
        self.turn = None if exclusive else Turn(str(path))

    def close(self) -> None:
        if self.turn is not None:
            self.turn.close()
        os.close(self._descriptor)


def _refusal(path: Path, owner: str, exclusive: bool) -> str:
    if exclusive:
        return f"{path} is in use by another process; stop it, or use the shared mode (several processes)"
    return (
        f"{path} is in use by {owner or 'another process'} alone; reach it through its server "
        "(--server URL), or start that process with --shared"
    )


class FileWatch:
    """A thread that hints whenever another process may have committed, by the files' times only."""

    def __init__(self, url: sa.URL, on_hint: Callable[[str], None]) -> None:
        self._paths = [] if in_memory(url) else [f"{url.database}{end}" for end in ("", "-wal", "-journal")]
        self._on_hint = on_hint
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine-watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        seen = self._times()
        while not self._stop.wait(_WATCH_SECONDS):
            now = self._times()
            if now != seen:
                seen = now
                self._on_hint("")

    def _times(self) -> list[int]:
        # stat, never open: see the head of this module.
        return [_mtime(path) for path in self._paths]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=3.0)


def _mtime(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _add_functions(connection: sqlite3.Connection) -> None:
    # Deterministic means, to SQLite, within one statement: it then asks once and not for every row.
    connection.create_function("engine_now", 0, _now, deterministic=True)
    connection.create_function("engine_later", 1, _later, deterministic=True)


def _now() -> str:
    return moment(datetime.now(UTC))


def _later(milliseconds: float) -> str:
    return moment(datetime.now(UTC) + timedelta(milliseconds=milliseconds))


def tell_time(engine: sa.Engine, now: Callable[[], datetime]) -> None:
    """Have the connections that `engine` opens from here on ask `now` what time it is."""

    def later(milliseconds: float) -> str:
        return moment(now() + timedelta(milliseconds=milliseconds))

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: sqlite3.Connection, record: Any) -> None:
        connection.create_function("engine_now", 0, lambda: moment(now()), deterministic=True)
        connection.create_function("engine_later", 1, later, deterministic=True)


def moment(value: datetime) -> str:
    """The text that SQLAlchemy stores for a datetime; sorts as time does."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def _code(error: BaseException) -> int | None:
    original = getattr(error, "orig", error)
    code = getattr(original, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
