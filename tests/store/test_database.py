"""Where transactions begin, end and run again."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from engine.errors import StoreUnavailable
from engine.operations import workers
from engine.store.database import Database, LostRace, Transaction
from engine.store.dialects.base import Dialect
from engine.store.prepared import Prepared
from engine.store.schema import queue
from engine.store.statement import insert_rows, statement
from tests.chaos.rig import wait_until
from tests.factories import rows


def remember(tx: Transaction, name: str) -> str:
    tx.execute(sa.text("INSERT INTO queue VALUES (:name)"), {"name": name})
    return name


def names(database: Database) -> set[str]:
    return {row.name for row in rows(database, "SELECT name FROM queue")} - {"default"}


def test_all_or_nothing(database: Database) -> None:
    def work(tx: Transaction) -> None:
        remember(tx, "half")
        raise KeyError

    with pytest.raises(KeyError):
        database.run_sync(work)
    assert names(database) == set()
    assert database.run_sync(remember, "whole") == "whole"
    assert names(database) == {"whole"}


def test_a_lost_race_runs_the_whole_again(database: Database) -> None:
    tries: list[int] = []

    def work(tx: Transaction) -> int:
        tries.append(1)
        remember(tx, f"try {len(tries)}")
        if len(tries) < 3:
            raise LostRace
        return len(tries)

    assert database.run_sync(work) == 3
    assert names(database) == {"try 3"}


def test_a_race_that_is_always_lost_ends(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.store.database._RERUNS", 3)

    def work(tx: Transaction) -> None:
        raise LostRace

    with pytest.raises((StoreUnavailable, LostRace)):
        database.run_sync(work)


def test_a_caller_that_goes_away_does_not_interrupt_the_commit(database: Database) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def work(tx: Transaction) -> None:
        remember(tx, "kept")
        inside.set()
        assert go_on.wait(30)

    async def leave() -> None:
        call = asyncio.ensure_future(database.run(work))
        await asyncio.to_thread(inside.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go_on.set()

    asyncio.run(leave())
    database.run_sync(lambda tx: None)  # behind the first, where there is one writer
    while "kept" not in names(database):
        pass


def test_wake_ups_come_after_the_commit_only(database: Database) -> None:
    heard: list[str] = []
    database.on_wake(heard.append)

    def work(tx: Transaction, fail: bool) -> None:
        tx.wakes.add("q")
        if fail:
            raise KeyError

    with pytest.raises(KeyError):
        database.run_sync(work, True)
    assert heard == []
    database.run_sync(work, False)
    assert heard == ["q"]
    database.off_wake(heard.append)
    database.run_sync(work, False)
    assert heard == ["q"]


@pytest.fixture
def telling(row_locking_url: str) -> Iterator[Database]:
    """A database that tells other processes of work."""
    database = Database(row_locking_url)
    yield database
    database.close()


def test_a_hint_goes_behind_the_commit_and_not_into_the_transaction(telling: Database) -> None:
    """It is not waited for to be durable; what it is about has to be."""

    def work(tx: Transaction) -> None:
        insert_rows(tx, queue, [["kept"]], ("name",))  # alone: it would be a transaction by itself
        tx.wakes.add("kept")

    with _told(telling) as heard, _statements(telling) as sent:
        telling.run_sync(work)
        wait_until(lambda: "kept" in heard, 10)
    begin, insertion, commit, hint = (
        sql for sql in sent if "set_config('lock" not in sql and "DISCARD" not in sql
    )
    assert (begin.split()[0], commit) == ("BEGIN", "COMMIT")
    assert "INSERT" in insertion and "pg_notify" in hint
    assert names(telling) == {"kept"}


def test_a_hint_that_cannot_be_given_does_not_undo_the_commit(telling: Database) -> None:
    def work(tx: Transaction) -> str:
        tx.wakes.add("too long " * 1_000)
        return remember(tx, "kept")

    assert telling.run_sync(work) == "kept"
    assert names(telling) == {"kept"}
    assert telling.run_sync(remember, "next") == "next"  # over the same connection


@contextmanager
def _told(database: Database) -> Iterator[list[str]]:
    """What a process hears that is not the one that writes."""
    other = Database(database.url.render_as_string(hide_password=False))
    heard: list[str] = []
    other.on_wake(heard.append)
    wait_until(lambda: "" in heard, 10)  # it listens
    try:
        yield heard
    finally:
        other.close()


@contextmanager
def _statements(database: Database) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        sent.append(sql)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)


def test_durability_is_full(database: Database) -> None:
    durability = database.durability()
    if database.dialect.locks_rows:
        assert "synchronous_commit=on" in durability.level  # the test server's own default is off
    else:
        assert durability.is_durable and "synchronous=FULL" in durability.level


def test_synchronous_commit_of_the_server_cannot_weaken_ours(row_locking: Database) -> None:
    with ThreadPoolExecutor(8) as threads:
        levels = list(threads.map(lambda _: row_locking.durability().level, range(16)))
    assert all("synchronous_commit=on" in level for level in levels)


# --- one writer


@pytest.fixture(params=["shared", "exclusive"])
def file(request: pytest.FixtureRequest, tmp_path: Path, empty_file: Path) -> Iterator[Database]:
    path = tmp_path / "engine.db"
    path.write_bytes(empty_file.read_bytes())
    database = Database(f"sqlite:///{path}", exclusive=request.param == "exclusive", wake_others=False)
    yield database
    database.close()


def test_every_connection_to_a_file_is_fully_synchronous(file: Database) -> None:
    with file.engine.connect() as writer, file._readers.connect() as one, file._readers.connect() as other:
        for connection in (writer, one, other):
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_a_write_after_a_read_does_not_fail_because_another_came_between(
    tmp_path: Path, empty_file: Path
) -> None:
    """A deferred transaction that read first may not write after somebody else's commit."""
    path = tmp_path / "engine.db"
    path.write_bytes(empty_file.read_bytes())
    first, second = (Database(f"sqlite:///{path}", wake_others=False) for _ in range(2))
    has_read = threading.Event()
    runs: list[str] = []

    def read_then_write(tx: Transaction) -> None:
        runs.append("run")
        tx.execute(sa.text("SELECT count(*) FROM queue")).scalar_one()
        has_read.set()
        remember(tx, f"by reader {len(runs)}")

    with ThreadPoolExecutor(2) as threads:
        reading = threads.submit(first.run_sync, read_then_write)
        assert has_read.wait(30)
        threads.submit(second.run_sync, remember, "by writer").result()
        reading.result()
    assert runs == ["run"]
    assert names(first) == {"by reader 1", "by writer"}
    first.close()
    second.close()


def test_a_transaction_writes_alone_from_its_beginning(file: Database) -> None:
    """BEGIN IMMEDIATE: the lock is there before the first statement."""
    other = sqlite3.connect(str(file.url.database), timeout=0, isolation_level=None, check_same_thread=False)
    try:
        file.run_sync(lambda tx: _refused(other))
    finally:
        other.close()


def _refused(other: sqlite3.Connection) -> None:
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")


def test_a_commit_that_a_reader_held_up_is_made_again(tmp_path: Path, empty_file: Path) -> None:
    path = tmp_path / "engine.db"
    path.write_bytes(empty_file.read_bytes())
    database = Database(f"sqlite:///{path}", wake_others=False)
    sa.event.listen(database.engine, "connect", _impatient)
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM queue").fetchall()
    failures: list[Any] = []

    def on_error(context: Any) -> None:
        failures.append(context.original_exception.sqlite_errorcode)
        if len(failures) == 2:
            reader.execute("COMMIT")

    sa.event.listen(database.engine, "handle_error", on_error)
    assert database.run_sync(remember, "kept") == "kept"
    assert failures == [sqlite3.SQLITE_BUSY] * 2
    assert names(database) == {"kept"}
    reader.close()
    database.close()


def _impatient(connection: sqlite3.Connection, record: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 1")


def test_a_commit_that_postgres_turned_into_a_rollback_is_no_success(row_locking: Database) -> None:
    """COMMIT of a failed transaction is answered with ROLLBACK, and not with an error."""

    def work(tx: Transaction) -> None:
        remember(tx, "lost")
        with pytest.raises(sa.exc.DBAPIError):
            tx.execute(sa.text("SELECT 1/0"))

    with pytest.raises(RuntimeError, match="ROLLBACK"):
        row_locking.run_sync(work)
    assert names(row_locking) == set()


def test_an_error_of_a_statement_that_nobody_looked_at_ends_the_transaction(database: Database) -> None:
    def work(tx: Transaction) -> None:
        remember(tx, "half")
        insert_rows(tx, queue, [["twice"], ["twice"]], ("name",))

    with pytest.raises(sa.exc.IntegrityError):
        database.run_sync(work)
    assert names(database) == set()
    assert database.run_sync(remember, "next") == "next"  # over the same connection


def test_a_transaction_whose_last_statement_was_answered_is_committed(database: Database) -> None:
    """The driver believes then that there is nothing to commit."""

    def work(tx: Transaction) -> list[str]:
        insert_rows(tx, queue, [["kept"]], ("name",))
        return list(tx.execute(_names(tx.dialect), {"names": tx.dialect.array(["kept"])}).scalars())

    assert database.run_sync(work) == ["kept"]
    assert names(database) == {"kept"}


def test_a_transaction_whose_statements_nobody_looked_at_is_committed(database: Database) -> None:
    def work(tx: Transaction) -> None:
        insert_rows(tx, queue, [["one"]], ("name",))
        tx.execute(_names(tx.dialect), {"names": tx.dialect.array(["one"])})

    database.run_sync(work)
    assert names(database) == {"one"}


@statement
def _names(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(queue.c.name).where(dialect.is_any(queue.c.name, "names"))


_STOPS_WHILE_SENDING = """
import os, signal, sys, time
from engine.store.database import Database

def work(tx):
    tx.pipeline.send("SELECT 1 FROM queue FOR UPDATE")
    print("sent", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)  # the other thread may be the first to stop

Database(sys.argv[1]).run_sync(work)
"""


def test_a_process_stopped_while_it_sends_does_not_keep_its_locks(row_locking: Database) -> None:
    """To the server it is busy: its limits for idle transactions do not count."""
    url = row_locking.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", _STOPS_WHILE_SENDING, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as stopped:
        try:
            assert stopped.stdout is not None and stopped.stdout.readline() == b"sent\n"
            wait_until(lambda: asyncio.run(workers.end_stalled(row_locking)), 30)
            row_locking.run_sync(lambda tx: tx.execute(sa.select(queue).with_for_update()))
        finally:
            stopped.kill()


def test_what_was_sent_before_a_statement_that_cannot_be_is_not_committed(row_locking: Database) -> None:
    """Together they are a transaction by themselves, up to the sync that follows."""
    insert = Prepared(sa.text("INSERT INTO queue (name) VALUES (:name)"), row_locking.dialect.sql)

    def work(tx: Transaction) -> None:
        for name in ("good", "bad\0"):  # no text of Postgres: the driver refuses it
            tx.execute(insert, {"name": name})

    with pytest.raises(sa.exc.DBAPIError, match="NUL"):
        row_locking.run_sync(work)
    assert not rows(row_locking, "SELECT name FROM queue WHERE name = 'good'")


@pytest.mark.anyio
async def test_a_read_that_nobody_waits_for_any_more_is_not_begun(database: Database) -> None:
    began: list[int] = []
    go_on = threading.Event()
    busy = [asyncio.create_task(database.read(lambda tx: go_on.wait(20))) for _ in range(20)]
    given_up = asyncio.create_task(database.read(lambda tx: began.append(1)))
    await asyncio.sleep(0)  # all are given to the threads, which are fewer
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    go_on.set()
    await asyncio.gather(*busy)
    await database.read(lambda tx: None)  # behind it
    assert began == []
