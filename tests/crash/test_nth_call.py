"""The n-th call to the database fails: the caller looks, says it again, and nothing is doubled."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from engine.errors import StoreUnavailable
from engine.operations import runs, tasks
from engine.store.database import Database
from engine.store.prepared import Pipeline
from tests import factories
from tests.crash import invariants
from tests.crash.scenario import Scenario
from tests.factories import do, events, rows, run_of

SAMPLE = 41  # calls from one failure to the next in the normal suite


class Faults:
    """Cuts the connection at calls number `first` to `last`: before they are sent, or before their answer."""

    def __init__(self, database: Database, patch: pytest.MonkeyPatch) -> None:
        self.count = self.first = self.last = 0
        self.when = "before"
        patch.setattr(Pipeline, "perform", staticmethod(self._on_execute))
        sa.event.listen(database.engine, "do_execute", self._on_execute)
        sa.event.listen(database.engine, "do_execute_no_params", self._on_execute_bare)
        if not database.dialect.locks_rows:  # elsewhere COMMIT is a statement like others
            self._commit = database.engine.dialect.do_commit
            database.engine.dialect.do_commit = self._on_commit  # type: ignore[method-assign]

    def arm(self, first: int, last: int, when: str) -> None:
        self.count, self.first, self.last, self.when = 0, first, last, when

    def _on_execute(self, cursor: Any, statement: str, parameters: Any, context: Any = None) -> bool:
        self._call(cursor.connection, lambda: cursor.execute(statement, parameters))
        return True

    def _on_execute_bare(self, cursor: Any, statement: str, context: Any) -> bool:
        self._call(cursor.connection, lambda: cursor.execute(statement))
        return True

    def _on_commit(self, connection: Any) -> None:
        self._call(connection.driver_connection, lambda: self._commit(connection))

    def _call(self, connection: Any, call: Callable[[], Any]) -> None:
        self.count += 1
        is_cut = self.first <= self.count <= self.last
        if is_cut and self.when == "before":
            _cut(connection)
        call()
        if is_cut:
            if isinstance(connection, psycopg.Connection):
                with connection.pipeline():
                    pass  # what was sent has taken place
            _cut(connection)


def _cut(connection: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error
    connection.close()
    raise psycopg.OperationalError("server closed the connection unexpectedly")


def outcome_of(database: Database, scenario: Scenario) -> list[Any]:
    """All that came of a scenario, without ids and times."""
    found: list[Any] = []
    for run_id in scenario.run_ids:
        run = run_of(database, run_id)
        found.append((run.state, run.total, run.succeeded, run.failed, run.skipped, run.cancelled))
        for row in rows(database, "SELECT id, name FROM task WHERE run_id = :run ORDER BY name", run=run_id):
            attempts = do(tasks.attempts(database, row.id))
            found.append((row.name, [(one.number, one.outcome) for one in attempts]))
        found.append(sorted((event.kind, event.task_name or "") for event in events(database, run_id)))
    return found


@pytest.mark.parametrize("length", [1, 3], ids=["one call", "three calls"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sample_of_calls_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch, when: str, length: int
) -> None:
    fail_at_every(database, monkeypatch, when, length, SAMPLE)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("length", [1, 3], ids=["one call", "three calls"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_call_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch, when: str, length: int
) -> None:
    fail_at_every(database, monkeypatch, when, length, 1)


def fail_at_every(
    database: Database, monkeypatch: pytest.MonkeyPatch, when: str, length: int, step: int
) -> None:
    faults = Faults(database, monkeypatch)
    expected = played(database)
    unanswered, number = 0, 1
    while True:
        faults.arm(number, number + length - 1, when)
        scenario = Scenario(database)
        scenario.play()
        calls, unanswered = faults.count, unanswered + scenario.unanswered
        faults.arm(0, 0, when)
        invariants.check(database, f"call {number} failed")
        assert outcome_of(database, scenario) == expected, f"call {number} failed"
        for run_id in scenario.run_ids:  # so that the thousandth check costs what the first did
            do(runs.delete(database, run_id))
        if calls < number:
            break
        number += step
    assert unanswered > 0 or step > 1, "no caller ever had to look"


def played(database: Database) -> list[Any]:
    scenario = Scenario(database)
    scenario.play()
    assert scenario.unanswered == 0
    return outcome_of(database, scenario)


def test_a_commit_without_an_answer_is_not_made_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it took place: the caller has to look, and without a key nobody can."""
    faults = Faults(database, monkeypatch)
    for when, runs_there in (("before", 0), ("after", 1)):
        factories.submit(database, "first of its queue")
        faults.arm(0, 0, when)
        factories.submit(database, "a")
        calls = faults.count
        before = len(rows(database, "SELECT id FROM run"))
        faults.arm(calls, calls, when)  # the last call of a submit is its commit
        with pytest.raises(StoreUnavailable):
            factories.submit(database, "a")
        faults.arm(0, 0, when)
        assert len(rows(database, "SELECT id FROM run")) == before + runs_there
