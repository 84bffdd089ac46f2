"""Postgres: row locks with SKIP LOCKED, advisory locks on runs, LISTEN/NOTIFY as a hint."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain, groupby
from typing import Any

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import psycopg as sa_psycopg

from engine.store.dialects.base import Dialect, Durability, Executes
from engine.store.dialects.listener import CHANNEL, Listener
from engine.store.dialects.stock import Stock
from engine.store.prepared import Pipeline, Prepared, Rows
from engine.store.schema import BLOCK_SIZE, UtcDateTime

_MIGRATION_LOCK = 0x7461736B  # "task"
_MIGRATION_WAIT_SECONDS = 0.1
# Run locks live in the two-key space, so that a user's own advisory locks are unlikely to meet them.
_RUN_LOCKS = 0x72756E73  # "runs"

# A cut-off peer is noticed in seconds instead of the kernel's fifteen minutes.
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "connect_timeout": 5,
}
_SESSION = {
    # A worker that is stopped or cut off in a transaction must not keep its row locks.
    "lock_timeout": "10s",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "5s",
    # Each of our statements has its index, and statistics of a queue are always stale: without these, the
    # retry of 100,000 tasks just loaded joined whole tables until the time limit; with them it takes 5 s.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "join_collapse_limit": "1",  # joins are written in the order in which they are to be made
    # A generic plan may look dear enough to be compiled, for seconds, to end one task.
    "jit": "off",
    "default_transaction_isolation": "read committed",  # of what is a transaction by itself
    # Planning afresh for each execution took as long as executing, and came to the same plan.
    "plan_cache_mode": "force_generic_plan",
}
# The server's side of `_KEEPALIVE`: of a worker that is cut off, one connection may hold a lock and others
# wait for it. Each would get it in turn and keep it until it is ended as stalled: they all go after 5 s.
_SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "5s",
}
_WHILE_WAITING = ("client_connection_check_interval", "1s", 140000)  # also while a statement waits
_RERUNNABLE = {"40001", "40P01", "55P03"}
_AT_FAULT = {"53", "55", "57", "58"}  # out of space or memory, in use, cancelled by time limits, its disk
_PLANS_SECONDS = 0.5  # a plan is used this long; making all of them again takes a few milliseconds
_READ_ONLY = "25006"  # a standby, or an operator's brake
_GONE = {"57P01", "57P02", "57P03", "25P03", "25P04"}


class PostgresDialect(Dialect):
    drivername = "postgresql+psycopg"
    # Numbered parameters go to the server as they are. Named ones psycopg looks for in the text of long
    # statements every time, 80 µs for a claim.
    sql: sa.Dialect = sa_psycopg.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]
    listens = True
    writes_in_with = True
    has_lateral = True
    shares_values_from = 100  # fewer travel with others as one statement, which is to stay the same

    def __init__(self) -> None:
        self._stocks: dict[tuple[sa.URL, str], Stock] = {}
        self._stocks_lock = threading.Lock()

    def options(self) -> Collection[str]:
        return {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}

    def create_engine(self, url: sa.URL, *, pool_size: int, exclusive: bool) -> sa.Engine:
        engine = sa.create_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            connect_args={**_KEEPALIVE, "application_name": "task-engine"},
            json_serializer=_encode,
            json_deserializer=msgspec.json.decode,
            isolation_level="AUTOCOMMIT",  # we say BEGIN ourselves, and need no answer to it
        )
        sa.event.listen(engine, "connect", _on_connect)
        return engine

    def pipeline(self, connection: sa.Connection) -> Pipeline:
        return PostgresPipeline(connection)

    @contextmanager
    def migration_lock(self, connection: sa.Connection) -> Iterator[None]:
        connection.execution_options(isolation_level="READ COMMITTED")
        connection.exec_driver_sql("SET application_name = 'task-engine migration'")  # never ended as stalled
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql("SET idle_in_transaction_session_timeout = 0")
        # Not pg_advisory_lock(): CREATE INDEX CONCURRENTLY waits for whoever waits in that, a dead-lock.
        while not connection.scalar(sa.text("SELECT pg_try_advisory_lock(:key)"), {"key": _MIGRATION_LOCK}):
            connection.commit()
            time.sleep(_MIGRATION_WAIT_SECONDS)
        connection.commit()
        try:
            yield
        finally:
            connection.invalidate()  # ends the session, and with it the lock and the settings

    def now(self) -> sa.ColumnElement[Any]:
        return sa.func.statement_timestamp(type_=sa.DateTime(timezone=True))

    def later(self, milliseconds: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        step = sa.literal_column("interval '1 millisecond'", sa.Interval)
        return sa.type_coerce(self.now() + milliseconds * step, sa.DateTime(timezone=True))

    def recordset(self, name: str, columns: Mapping[str, sa.types.TypeEngine[Any]]) -> Any:
        # Arrays in binary form: of text, each column would be looked for in the row's text again (5.9 us a
        # row of 7 columns instead of 3.9); json_to_recordset wants objects, which take us longer to write.
        rows = sa.func.jsonb_array_elements(
            sa.cast(sa.bindparam(name, type_=sa.Text), postgresql.JSONB)
        ).table_valued(sa.column("value", postgresql.JSONB), name=f"{name}_rows")
        picked = [
            _picked(rows.c.value.op("->>", return_type=sa.Text)(sa.literal_column(str(i))), type_).label(key)
            for i, (key, type_) in enumerate(columns.items())
        ]
        # Materialized: flattened into a join, each value would be parsed again for each row it meets.
        return sa.select(*picked).select_from(rows).cte(name).prefix_with("MATERIALIZED")

    def given(self, name: str, type_: Any) -> sa.ColumnElement[Any]:
        return _picked(sa.cast(sa.bindparam(name, type_=sa.Text), sa.Text), type_)

    def candidates(self, column: sa.ColumnElement[Any], query: sa.Select[Any]) -> sa.ColumnElement[bool]:
        # `IN (SELECT … LIMIT n)` may run the sub-select once per row: 50 rows were claimed for LIMIT 5.
        return column == sa.any_(sa.func.array(query.scalar_subquery()))

    def is_any(self, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
        array = postgresql.ARRAY(sa.Text if isinstance(column.type, sa.Text) else sa.BigInteger)
        return column == sa.any_(sa.cast(sa.bindparam(name, type_=sa.Text), array))

    def array(self, values: Iterable[Any]) -> Any:
        return "{" + ",".join(_array_item(value) for value in values) + "}"

    def insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table)

    def share_runs(self, tx: Executes, run_ids: Sequence[int]) -> None:
        tx.execute(_SHARE_RUNS[tx.gives_way], {"ids": self.array(run_ids)})

    def own_runs(self, tx: Executes, run_ids: Sequence[int]) -> None:
        tx.execute(_OWN_RUNS[tx.gives_way], {"ids": self.array(run_ids)})

    def is_locked(self, error: BaseException) -> bool:
        return _sqlstate(error) == "55P03"

    def allocate(self, tx: Executes, name: str, count: int) -> list[int]:
        stock = self._stock(tx.connection.engine.url, name)
        ids = stock.take(count)
        while missing := count - len(ids):
            stock.add(draw(tx, name, stock.due(missing)))
            ids += stock.take(missing)
        return sorted(ids)

    def _stock(self, url: sa.URL, name: str) -> Stock:
        with self._stocks_lock:
            return self._stocks.setdefault((url, name), Stock(name))

    def is_rerunnable(self, error: BaseException) -> bool:
        return _sqlstate(error) in _RERUNNABLE

    def is_disconnect(self, error: BaseException) -> bool:
        state = _sqlstate(error)
        if state is not None:
            return state in _GONE or state.startswith("08") or state == "53300"
        original = getattr(error, "orig", error)
        return isinstance(original, psycopg.OperationalError | psycopg.InterfaceError)

    def is_unavailable(self, error: BaseException) -> bool:
        state = _sqlstate(error) or ""
        return state[:2] in _AT_FAULT or state == _READ_ONLY or super().is_unavailable(error)

    def is_duplicate(self, error: BaseException) -> bool:
        return _sqlstate(error) == "23505"

    def connect_arguments(self, url: sa.URL) -> dict[str, Any]:
        return _connect_arguments(url)

    def open_notifier(self, url: sa.URL) -> Any:
        connection = psycopg.connect(**_connect_arguments(url), autocommit=True)
        return connection

    def notify(self, connection: Any, payload: str) -> None:
        psycopg.RawCursor(connection).execute(_NOTIFY, (CHANNEL, payload))

    def subscribe(self, url: sa.URL, on_hint: Callable[[str], None]) -> Listener:
        return Listener(_connect_arguments(url), on_hint)

    def end_stalled(self, tx: Executes) -> int:
        return len(tx.execute(_END_STALLED).all())

    def durability(self, connection: sa.Connection) -> Durability:
        fsync, level, full_page = connection.execute(
            sa.text(
                "SELECT current_setting('fsync'), current_setting('synchronous_commit'), "
                "current_setting('full_page_writes')"
            )
        ).one()
        remarks = []
        if fsync != "on":
            remarks.append("fsync is off: a power cut can lose or corrupt everything")
        if level == "off":
            remarks.append("synchronous_commit is off: the last moments can be lost")
        if full_page != "on":
            remarks.append("full_page_writes is off: a power cut can tear pages")
        return Durability(f"fsync={fsync}, synchronous_commit={level}", not remarks, tuple(remarks))

    def facts(self, connection: sa.Connection) -> dict[str, Any]:
        version, age, clock = connection.execute(
            sa.text(
                "SELECT current_setting('server_version'), "
                "(SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float "
                " FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()), "
                "clock_timestamp()"
            )
        ).one()
        return {
            "database": f"PostgreSQL {version}",
            "oldest_transaction_seconds": round(age, 3),
            "clock": clock,
            "pooler": bool(connection.info.get("local_settings")),
        }


def _connect_arguments(url: sa.URL) -> dict[str, Any]:
    arguments, keywords = sa.engine.url.make_url(url).get_dialect()().create_connect_args(url)
    assert not arguments
    return {**keywords, **_KEEPALIVE}


def _on_connect(connection: Any, record: Any) -> None:
    """Apply our settings: to the session, or before each transaction behind a pooler."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_setting('synchronous_commit')")
        pid, synchronous = cursor.fetchone()
        settings = {**_SESSION, **_SERVER_KEEPALIVE}
        name, value, since = _WHILE_WAITING
        if connection.info.server_version >= since:
            settings[name] = value
        if synchronous == "off":  # a weaker server default must not weaken an acknowledged submit
            settings["synchronous_commit"] = "on"
        if pid == connection.info.backend_pid:
            cursor.execute("".join(f"SET {name} = '{value}';" for name, value in settings.items()))
        else:
            # A pooler hands each transaction another server connection: nothing may stay behind on it.
            connection.prepare_threshold = None
            settings_ = ", ".join(
                f"set_config('{name}', '{value}', true)" for name, value in settings.items()
            )
            record.info["local_settings"] = f"SELECT {settings_}"


class PostgresPipeline(Pipeline):
    """Sends statements one behind the other; their answers are collected when somebody looks.

    Statements wait until somebody does look, or the server has enough to do: what is sent at once with the
    commit is a transaction by itself, without BEGIN and COMMIT. Each statement costs 40 µs here, and as much
    on the server, whatever it does. So insertions that follow each other go as one.
    """

    def __init__(self, connection: sa.Connection) -> None:
        super().__init__(connection)
        self._open: Any = None
        self._begin: str | None = None  # still to be sent
        self._waiting: list[tuple[Prepared, list[Any], Rows]] = []  # to be sent behind `_begin`

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            self.leave()

    def begin(self, *, is_reading: bool = False) -> None:
        info = self.connection.info
        settings = info.get("local_settings")
        # A plan made for an empty table is no good for a full one, and statistics come late.
        if not settings and time.monotonic() - info.get("planned_at", 0.0) > _PLANS_SECONDS:
            self.send("DISCARD PLANS")
            info["planned_at"] = time.monotonic()
        if settings or not is_reading:  # what only reads is single statements
            self._begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
        if settings:
            self.send(settings)

    def execute(self, statement: Prepared, parameters: Mapping[str, Any]) -> Rows:
        rows = Rows(statement, self, None)
        bound = statement.bound(parameters)
        self._waiting.append((statement, bound, rows))
        may_wait = not statement.at_once and (statement.is_insertion or self._begin is not None)
        if not may_wait or sum(len(value) for value in bound if isinstance(value, str)) > _MAX_WAITING:
            self._send_what_waits()
        return rows

    def send(self, sql: str, parameters: Any = ()) -> Any:
        self._send_what_waits()
        return self._send(sql, parameters)

    def _send(self, sql: str, parameters: Any = ()) -> Any:
        if self._open is None:
            self._open = self.driver.pipeline()
            self._open.__enter__()
        return super().send(sql, parameters)

    def _send_what_waits(self) -> None:
        begin, self._begin = self._begin, None
        waiting, self._waiting = self._waiting, []
        if begin is not None:
            self._send(begin)
        for is_insertion, group in groupby(waiting, lambda item: item[0].is_insertion):
            if is_insertion:
                statements, bound, _ = zip(*group, strict=True)
                self._send(_as_one(statements), list(chain.from_iterable(bound)))
                continue
            for statement, values, rows in group:
                rows.cursor = self._send(statement.sql, values)

    def cursor(self) -> Any:
        return psycopg.RawCursor(self.driver)

    def leave(self) -> None:
        # Whoever waits for an answer leaves: the driver's sync() waits for ever when a large statement does
        # not fit into the socket (psycopg 3.3.9).
        self._send_what_waits()
        opened, self._open = self._open, None
        if opened is not None:
            try:
                opened.__exit__(None, None, None)
            except psycopg.Error as error:
                self.raised(error, "(sent before)")

    def commit(self, transaction: sa.Transaction, hints: Collection[str] = ()) -> None:
        is_one = all(statement.is_insertion for statement, *_ in self._waiting) or len(self._waiting) == 1
        if self._begin is not None and not hints and (is_one or not self.is_watched):
            # Nothing was sent: all up to the driver's sync is a transaction by itself. To those who watch
            # several statements we show its ends.
            self._begin = None
            try:
                self._send_what_waits()
            except BaseException:
                self.connection.invalidate()  # the driver's sync would commit what was sent before
                raise
            self.leave()
        else:
            # Not the driver's commit(), which neither travels with the others nor says what it came to.
            cursor = self.send("COMMIT")
            for hint in hints:
                self.send(_NOTIFY, (CHANNEL, hint))
            try:
                self.leave()
            except sa.exc.DBAPIError:
                if not hints or cursor.statusmessage != "COMMIT":
                    raise  # otherwise only a hint was lost
            # Postgres answers the COMMIT of a failed transaction with ROLLBACK.
            if cursor.statusmessage != "COMMIT":
                raise RuntimeError(f"the transaction ended in {cursor.statusmessage}")
        transaction.commit()  # for SQLAlchemy, which does not know yet

    @contextmanager
    def ended_by_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._begin = None
            self._waiting.clear()
            opened, self._open = self._open, None
            if opened is not None and not self.driver.closed:
                with suppress(psycopg.Error):
                    opened.__exit__(None, None, None)
            raise


@cache
def _as_one(insertions: tuple[Prepared, ...]) -> str:
    parts = []
    taken = 0
    for number, insertion in enumerate(insertions):
        parts.append(f"part_{number} AS ({_renumbered(insertion.sql, taken)})")
        taken += insertion.parameters
    # The server performs the last part first. Rows have to be locked in the order in which they were sent.
    return f"WITH {', '.join(reversed(parts))} SELECT 1 AS inserted"


def _renumbered(sql: str, by: int) -> str:
    return re.sub(r"\$(\d+)", lambda found: f"${int(found[1]) + by}", sql)


_MAX_WAITING = 16 * 1024  # characters; the server may work on larger ones while we write the next


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _picked(text: sa.ColumnElement[str], type_: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
    if isinstance(type_, UtcDateTime):  # says no zone, and the session's need not be UTC
        return sa.type_coerce(sa.func.timezone("UTC", sa.cast(text, sa.DateTime())), type_)
    return sa.cast(text, type_)


def _array_item(value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _sqlstate(error: BaseException) -> str | None:
    original = getattr(error, "orig", error)
    state: str | None = getattr(original, "sqlstate", None)
    return state


def _locking(function: str) -> dict[bool, Prepared]:
    """Take run locks in array order; True: in a transaction that gives way, see `Transaction.give_way`."""
    take = (
        f"SELECT count({function}(({_RUN_LOCKS}::bigint << 32) # id)) "  # noqa: S608 — constants
        "FROM (SELECT id FROM unnest(CAST(:ids AS bigint[])) AS id {where}) AS ids"
    )
    # Asked of each row before it is locked.
    briefly = "WHERE set_config('lock_timeout', '100ms', true) IS NOT NULL"
    return {
        gives_way: Prepared(sa.text(take.format(where=where)), PostgresDialect.sql)
        for gives_way, where in ((False, ""), (True, briefly))
    }


_SHARE_RUNS = _locking("pg_advisory_xact_lock_shared")
_OWN_RUNS = _locking("pg_advisory_xact_lock")
# The server's own limit for idle transactions does not count after a pipeline: not before its sync, and the
# driver sends a flush behind the sync, which takes the limit away again.
# A transaction of its own: a hint may be lost, and should not wait for the disk.
_NOTIFY = "SELECT set_config('synchronous_commit', 'off', true), pg_notify($1, $2)"
_END_STALLED = Prepared(
    sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'task-engine' AND usename = current_user AND datname = current_database() "
        "AND wait_event = 'ClientRead' AND xact_start IS NOT NULL "
        "AND state_change < clock_timestamp() - interval '5 seconds' AND pid <> pg_backend_pid()"
    ),
    PostgresDialect.sql,
)
_DRAW = {
    name: Prepared(
        sa.text(f"SELECT nextval('{name}_id_block') FROM generate_series(1, :blocks)"),  # noqa: S608 — a name of ours
        PostgresDialect.sql,
    )
    for name in BLOCK_SIZE
}


def draw(tx: Executes, name: str, blocks: int) -> list[int]:
    """The first ids of so many fresh blocks."""
    firsts: list[int] = tx.execute(_DRAW[name], {"blocks": blocks}).scalars()
    return firsts
