"""What a caller's SQLite connection looks like after a submit: as before."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import engine
from engine.errors import ConfigError, InvalidInput, SchemaMismatch, StoreUnavailable
from engine.store.database import Database
from engine.store.dialects import borrowed
from tests.factories import graph


@pytest.fixture
def path(tmp_path: Path, empty_file: Path) -> Path:
    path = tmp_path / "app.db"
    path.write_bytes(empty_file.read_bytes())
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=0.1)
    yield connection
    connection.close()


def test_no_transaction_is_begun_or_ended(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None
    connection.execute("BEGIN IMMEDIATE")
    sent: list[str] = []
    connection.set_trace_callback(lambda statement: sent.append(statement.split(maxsplit=1)[0].upper()))
    engine.submit(connection, graph("a -> b"), key="k")
    engine.submit_many(connection, [graph("c")])
    connection.set_trace_callback(None)
    assert connection.in_transaction
    assert not {"BEGIN", "COMMIT", "END", "ROLLBACK"} & set(sent)
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM run").fetchone() == (0,)


def test_the_driver_begins_by_itself_as_for_any_insert(connection: sqlite3.Connection) -> None:
    assert not connection.in_transaction
    engine.submit(connection, graph("a"))
    assert connection.in_transaction
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM run").fetchone() == (0,)


def test_a_connection_that_commits_by_itself_is_refused(connection: sqlite3.Connection) -> None:
    connection.isolation_level = None
    with pytest.raises(InvalidInput, match=r"autocommit.*BEGIN IMMEDIATE"):
        engine.submit(connection, graph("a"), key="k")
    assert not connection.in_transaction
    assert connection.execute("SELECT count(*) FROM run").fetchone() == (0,)


def test_a_sqlalchemy_connection_in_autocommit_is_refused(path: Path) -> None:
    sa_engine = sa.create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with sa_engine.connect() as connection, pytest.raises(InvalidInput, match="autocommit"):
        engine.submit(connection, graph("a"))
    sa_engine.dispose()


def test_what_the_caller_set_on_its_connection_stays_and_does_not_matter(
    connection: sqlite3.Connection,
) -> None:
    connection.row_factory, connection.text_factory = sqlite3.Row, bytes
    engine.submit(connection, graph("b -> a"), key="k")
    assert engine.submit(connection, graph("b -> a"), key="k").is_repeat
    assert (connection.row_factory, connection.text_factory) == (sqlite3.Row, bytes)
    assert [row["name"] for row in connection.execute("SELECT name FROM task ORDER BY id")] == [b"b", b"a"]


def test_it_may_be_called_while_a_cursor_is_open(connection: sqlite3.Connection) -> None:
    connection.executescript("CREATE TABLE orders (id); INSERT INTO orders VALUES (1), (2), (3)")
    for row in connection.execute("SELECT id FROM orders"):
        engine.submit(connection, graph("a"), key=f"order-{row[0]}")
    connection.commit()
    assert connection.execute("SELECT count(*) FROM run").fetchone() == (3,)


@pytest.mark.parametrize("kind", ["driver", "sqlalchemy"])
def test_a_failure_half_way_leaves_nothing_of_the_run(path: Path, kind: str) -> None:
    """On SQLite the statements before the one that failed would otherwise be committed by the caller."""
    connection = sqlite3.connect(path)
    connection.executescript(
        "CREATE TABLE orders (id);"
        "CREATE TRIGGER full BEFORE INSERT ON edge BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    if kind == "driver":
        connection.execute("INSERT INTO orders VALUES (1)")
        with pytest.raises(sqlite3.IntegrityError, match="disk full"):
            engine.submit(connection, graph("a -> b"))
        connection.commit()
    else:
        sa_engine = sa.create_engine(f"sqlite:///{path}")
        with sa_engine.begin() as sa_connection:
            sa_connection.exec_driver_sql("INSERT INTO orders VALUES (1)")
            with pytest.raises(sa.exc.IntegrityError, match="disk full"):
                engine.submit(sa_connection, graph("a -> b"))
        sa_engine.dispose()
    counts = "SELECT (SELECT count(*) FROM run), (SELECT count(*) FROM task), (SELECT count(*) FROM orders)"
    assert connection.execute(counts).fetchone() == (0, 0, 1)
    connection.close()


def test_a_locked_file_is_named_as_the_problem(connection: sqlite3.Connection, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match=r"locked by another writer.*BEGIN IMMEDIATE"):
        engine.submit(connection, graph("a"))
    other.execute("ROLLBACK")
    engine.submit(connection, graph("a"))
    connection.commit()
    other.close()


def test_a_transaction_that_began_by_reading_may_be_too_late(path: Path) -> None:
    one = sqlite3.connect(path, isolation_level=None, timeout=5)
    two = sqlite3.connect(path, isolation_level=None)
    one.execute("PRAGMA journal_mode = WAL")
    one.execute("BEGIN")
    one.execute("SELECT count(*) FROM run").fetchone()
    two.execute("CREATE TABLE orders (id)")
    with pytest.raises(StoreUnavailable, match="began by reading"):
        engine.submit(one, graph("a"))
    one.execute("ROLLBACK")
    one.close()
    two.close()


@pytest.fixture
def old_library(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda is_safe: monkeypatch.setattr(borrowed, "wal_is_safe_for_many", lambda: is_safe)


def test_a_file_that_an_engine_has_to_itself_is_refused(
    connection: sqlite3.Connection, path: Path, old_library: Callable[[bool], None]
) -> None:
    """Two writers can corrupt a WAL file with the affected releases of SQLite."""
    database = Database(f"sqlite:///{path}", exclusive=True)
    connection.execute("PRAGMA journal_mode = WAL")
    old_library(False)
    with pytest.raises(ConfigError, match="shared=True"):
        engine.submit(connection, graph("a"))
    old_library(True)
    engine.submit(connection, graph("a"))
    connection.commit()
    database.close()


def test_a_wal_file_of_the_callers_own_is_fine(
    connection: sqlite3.Connection, old_library: Callable[[bool], None]
) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    old_library(False)
    engine.submit(connection, graph("a"))
    connection.commit()


def test_a_database_without_our_tables_is_named_as_the_problem() -> None:
    with sqlite3.connect(":memory:") as connection, pytest.raises(SchemaMismatch, match="db upgrade"):
        engine.submit(connection, graph("a"))
    connection.close()


def test_json_settings_of_the_callers_engine_do_not_matter(path: Path) -> None:
    settings: dict[str, Any] = {"json_serializer": lambda value: "17", "json_deserializer": lambda text: None}
    sa_engine = sa.create_engine(f"sqlite:///{path}", **settings)
    with sa_engine.begin() as connection:
        first = engine.submit(connection, graph("a"), key="k")
        assert engine.submit(connection, graph("a"), key="k").task_ids == first.task_ids
    sa_engine.dispose()
