"""What a caller's Postgres connection looks like after a submit: as before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, tuple_row

import engine
from engine.errors import GraphError, InvalidInput, SchemaMismatch
from engine.store.counters import fold_counters
from engine.store.database import Database
from engine.store.queries import totals
from tests.factories import graph, rows, submit
from tests.sdk.callers import CALLERS, Caller, libpq
from tests.sdk.conftest import Run
from tests.support.postgres import Server
from tests.support.template import Template

POSTGRES = [kind for kind in CALLERS if "postgres" in kind.databases]
_WHO = (
    "SELECT pg_backend_pid(), pg_current_xact_id()::text, xact_start, "
    "current_setting('statement_timeout'), current_setting('transaction_isolation') "
    "FROM pg_stat_activity WHERE pid = pg_backend_pid()"
)


@pytest.fixture
def url(row_locking_url: str) -> str:
    return libpq(sa.make_url(row_locking_url))


@pytest.fixture(params=POSTGRES, ids=lambda kind: kind.__name__)
def pg_caller(request: pytest.FixtureRequest, row_locking_url: str, run: Run[Any]) -> Iterator[Caller]:
    caller: Caller = request.param(row_locking_url)
    run(caller.open())
    yield caller
    run(caller.rollback())
    run(caller.close())


@pytest.mark.parametrize("key", [None, "k"])
def test_the_transaction_is_the_same_one_before_and_after(
    pg_caller: Caller, run: Run[Any], key: str | None
) -> None:
    run(pg_caller.execute("SET LOCAL statement_timeout = '77s'"))
    before = run(pg_caller.execute(_WHO))
    run(pg_caller.submit(graph("a -> b"), key=key))
    with pytest.raises(GraphError):
        run(pg_caller.submit(graph("a -> a")))
    run(pg_caller.submit_many([graph("c")]))
    assert run(pg_caller.execute(_WHO)) == before


def test_only_harmless_statements_reach_the_server(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    execute = psycopg.Cursor.execute

    def spy(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(str(query).split(maxsplit=1)[0].upper())
        return execute(self, query, *args, **kwargs)

    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        monkeypatch.setattr(psycopg.Cursor, "execute", spy)
        engine.submit(connection, graph("a -> b"))
        assert set(sent) <= {"SELECT", "INSERT", "WITH"}
        engine.submit(connection, graph("a -> b"), key="k")
        assert set(sent) <= {"SELECT", "INSERT", "WITH", "SAVEPOINT", "RELEASE"}
        assert connection.info.transaction_status is TransactionStatus.INTRANS


class _Awkward(psycopg.RawCursor[Any]):
    """Understands $1 only, and the connection makes it return dictionaries."""


def test_what_the_caller_set_on_its_connection_stays_and_does_not_matter(url: str) -> None:
    with psycopg.connect(url, row_factory=dict_row, cursor_factory=_Awkward) as connection:
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        connection.prepare_threshold = None
        engine.submit(connection, graph("a"), key="k")
        assert engine.submit(connection, graph("a"), key="k").is_repeat
        assert connection.row_factory is dict_row
        assert connection.cursor_factory is _Awkward
        assert connection.isolation_level is psycopg.IsolationLevel.SERIALIZABLE
        assert connection.prepare_threshold is None
        assert connection.autocommit is False
        assert connection.execute("SELECT count(*) AS n FROM run").fetchone() == {"n": 1}


def test_a_transaction_block_of_an_autocommit_connection_is_enough(url: str, row_locking: Database) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        with pytest.raises(InvalidInput, match=r"autocommit.*connection\.transaction"):
            engine.submit(connection, graph("a"))
        with connection.transaction():
            engine.submit(connection, graph("b"))
        with pytest.raises(ZeroDivisionError), connection.transaction():
            engine.submit(connection, graph("c"))
            raise ZeroDivisionError
        assert connection.autocommit
    assert rows(row_locking, "SELECT name FROM task") == [("b",)]


def test_a_sqlalchemy_connection_in_autocommit_is_refused(row_locking_url: str) -> None:
    sa_engine = sa.create_engine(row_locking_url, isolation_level="AUTOCOMMIT")
    with sa_engine.connect() as connection, pytest.raises(InvalidInput, match="autocommit"):
        engine.submit(connection, graph("a"))
    sa_engine.dispose()


def test_json_settings_and_schema_maps_of_the_callers_engine_do_not_matter(
    row_locking_url: str, row_locking: Database
) -> None:
    sa_engine = sa.create_engine(
        row_locking_url, json_serializer=lambda value: "17", json_deserializer=lambda text: None
    )
    with sa_engine.connect().execution_options(schema_translate_map={None: "elsewhere"}) as connection:
        first = engine.submit(
            connection, engine.graph([{"name": "a", "kind": "noop", "params": [1]}]), key="k"
        )
        again = engine.submit(
            connection, engine.graph([{"name": "a", "kind": "noop", "params": [1]}]), key="k"
        )
        connection.commit()
    sa_engine.dispose()
    assert again.task_ids == first.task_ids
    assert rows(row_locking, "SELECT params FROM task") == [([1],)]


def test_the_loser_of_a_race_for_a_key_gets_the_winners_run(url: str) -> None:
    answers: list[engine.Accepted] = []
    with psycopg.connect(url) as winner, psycopg.connect(url) as loser, psycopg.connect(url) as observer:
        observer.autocommit = True
        loser.execute("CREATE TEMP TABLE mine (id int)")
        first = engine.submit(winner, graph("a"), key="k")
        thread = threading.Thread(target=lambda: answers.append(engine.submit(loser, graph("a"), key="k")))
        thread.start()
        _wait_until_blocked(observer, loser.info.backend_pid)
        winner.commit()
        thread.join(20)
        loser.execute("INSERT INTO mine VALUES (1)")
        loser.commit()
    assert answers[0].is_repeat and answers[0].run_id == first.run_id
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM run").fetchone() == (1,)


def _wait_until_blocked(observer: psycopg.Connection[Any], pid: int) -> None:
    while observer.execute("SELECT cardinality(pg_blocking_pids(%s))", (pid,)).fetchone() == (0,):
        pass


def test_a_long_transaction_of_a_caller_keeps_nobody_waiting(url: str, row_locking: Database) -> None:
    submit(row_locking, graph("first"))  # makes the queue known
    with psycopg.connect(url) as one, psycopg.connect(url) as two:
        engine.submit(one, graph("a"), key="1")
        two.execute("SET lock_timeout = '100ms'")
        engine.submit(two, graph("b"), key="2")
        submit(row_locking, graph("c"))


def test_folding_moves_loose_counts_to_a_process_and_keeps_the_totals(
    url: str, row_locking: Database
) -> None:
    with psycopg.connect(url) as connection:
        for _ in range(7):
            engine.submit(connection, graph("a, b"))
            connection.commit()
    before = row_locking.read_sync(totals)
    assert before["open"] == before["submitted:noop"] == 14
    assert rows(row_locking, "SELECT count(DISTINCT shard) FROM counter WHERE shard >= 1000") == [(7,)]
    folded = []
    while removed := row_locking.run_sync(fold_counters, 4):
        folded.append(removed)
    assert sum(folded) == 7 and len(folded) > 1
    assert rows(row_locking, "SELECT count(*) FROM counter WHERE shard >= 1000") == [(0,)]
    assert row_locking.read_sync(totals) == before


def test_ids_never_come_from_another_database_behind_the_same_url(
    template: Template,
) -> None:
    """Both engines say `postgresql+psycopg://`; only their creators know where they lead."""
    with template.clone() as one, template.clone() as other:
        _submit_in_turn(one, other)


def _submit_in_turn(*urls: str) -> None:
    targets = [libpq(sa.make_url(url)) for url in urls]
    engines = [sa.create_engine("postgresql+psycopg://", creator=_connector(one)) for one in targets]
    found = []
    for _ in range(3):
        for sa_engine in engines:
            with sa_engine.begin() as connection:
                found.append(engine.submit(connection, graph("a")).run_id)
    assert found[0::2] == found[1::2]  # each database counts for itself
    for sa_engine in engines:
        sa_engine.dispose()


def _connector(target: str) -> Callable[[], psycopg.Connection[Any]]:
    return lambda: psycopg.connect(target)


def test_a_database_without_our_tables_is_named_as_the_problem(cluster: Server) -> None:
    url = cluster.create_database("bare")
    with (
        psycopg.connect(libpq(sa.make_url(url))) as connection,
        pytest.raises(SchemaMismatch, match="db upgrade"),
    ):
        engine.submit(connection, graph("a"))
    cluster.drop_database("bare")


def test_errors_of_the_database_come_out_as_the_drivers_own(url: str) -> None:
    """Programs rerun their transactions when they see them."""
    with psycopg.connect(url) as connection:
        connection.execute("SET LOCAL default_transaction_read_only = on")
        connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            engine.submit(connection, graph("a"))
        connection.rollback()
        connection.row_factory = tuple_row
        engine.submit(connection, graph("a"))
