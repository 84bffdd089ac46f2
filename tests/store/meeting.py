"""Transactions that meet on purpose: one stops at a chosen place, the database says who waits for whom."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa

from engine.model.outcomes import Outcome
from engine.model.records import Lease
from engine.operations import runs
from engine.store import claims
from engine.store.database import Database
from tests.factories import do, finish, request

T = TypeVar("T")
COMMIT = "^COMMIT$"
_SECONDS = 30.0


class Meeting:
    """Starts operations in threads, each with a `Database` of its own, as another process would have it."""

    def __init__(self, url: str) -> None:
        self._url = url
        plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._watcher = psycopg.connect(plain, autocommit=True)
        self._threads = ThreadPoolExecutor(32)
        self._databases: list[Database] = []
        self.deadlocks = 0  # that the database had to break

    def database(self) -> Database:
        database = Database(self._url, wake_others=False)
        self._databases.append(database)
        sa.event.listen(database.engine, "handle_error", self._on_error)
        return database

    def _on_error(self, context: Any) -> None:
        if getattr(context.original_exception, "sqlstate", None) == "40P01":
            self.deadlocks += 1

    def start(self, call: Callable[[Database], T], database: Database | None = None) -> Future[T]:
        """Run `call(database)` in a thread."""
        return self._threads.submit(call, database or self.database())

    @contextmanager
    def stopped(self, call: Callable[[Database], T], before: str = COMMIT) -> Iterator[Future[T]]:
        """Run `call` up to its first statement that matches `before`, and hold it there within the block.

        It has ended when the block is left.
        """
        database = self.database()
        there, go_on = threading.Event(), threading.Event()

        def stop() -> None:
            if not there.is_set():
                there.set()
                assert go_on.wait(_SECONDS)

        def on_statement(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
            if re.search(before, statement):
                with cursor.connection.pipeline():
                    pass  # what was sent before has taken place
                stop()

        sa.event.listen(database.engine, "before_cursor_execute", on_statement)
        future = self.start(call, database)
        try:
            while not there.wait(0.05):
                if future.done():
                    raise AssertionError(f"ended before {before!r}: {future.result()!r}")
            yield future
        finally:
            go_on.set()
            wait([future], _SECONDS)

    @contextmanager
    def holding(self, rows: str) -> Iterator[None]:
        """Keep `rows`, such as "task_state WHERE task_id = 7", locked within the block."""
        with psycopg.connect(self._watcher.info.dsn) as holder:
            holder.execute(f"SELECT 1 FROM {rows} FOR UPDATE")
            yield

    def unlocked(self, column: str, rows: str) -> list[Any]:
        """Of `rows`, those that nobody has locked."""
        found = self._ask(f"SELECT {column} FROM {rows} ORDER BY 1 FOR UPDATE SKIP LOCKED")
        return [row[0] for row in found]

    def wait_until_blocked(self, count: int = 1) -> None:
        """Until the database reports that so many sessions wait for others."""
        deadline = time.monotonic() + _SECONDS
        while self._ask(_WAITING) != [(count,)]:
            assert time.monotonic() < deadline, f"not {count} wait: {self._ask(_WHO)}"

    def _ask(self, query: str) -> list[Any]:
        return self._watcher.execute(query).fetchall()

    def close(self) -> None:
        self._threads.shutdown()
        for database in self._databases:
            database.close()
        self._watcher.close()


# --- what meets


def finishing(*ended: tuple[Lease, Outcome]) -> Any:
    return lambda database: finish(database, *ended)


def holding(run_id: int) -> Any:
    return lambda database: do(runs.hold(database, run_id))


def cancelling(run_id: int) -> Any:
    return lambda database: do(runs.cancel(database, run_id))


def claiming(session_id: int, limit: int = 100) -> Any:
    """A claim that can be stopped before its commit: by itself, it has none of its own."""
    asked = request(session_id, limit)
    return lambda database: database.run_sync(lambda tx: claims.claim(tx, asked).read(), actor="w")


def names(leases: list[Lease]) -> list[str]:
    return [lease.name for lease in leases]


_OURS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
_WAITING = f"SELECT count(*) {_OURS} AND cardinality(pg_blocking_pids(pid)) > 0"
_WHO = f"SELECT pid, pg_blocking_pids(pid), state, wait_event, left(query, 80) {_OURS}"
