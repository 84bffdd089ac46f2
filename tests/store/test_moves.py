"""Every state × every move, with real rows: a task changes exactly where `TRANSITIONS` says so."""

from __future__ import annotations

import pytest

from engine.model.states import TRANSITIONS, Move, TaskState
from engine.store import moves
from engine.store.database import Database, Transaction
from engine.store.statement import document
from tests.factories import rows, submit, write


def test_a_move_changes_exactly_its_source_states(database: Database) -> None:
    for kind, transition in TRANSITIONS.items():
        ids = one_of_each(database)
        assert moved(database, ids, kind) == {ids[state] for state in transition.sources}, kind
        now = dict(rows(database, "SELECT task_id, state FROM task_state"))
        for state, task_id in ids.items():
            assert now[task_id] == (transition.target if state in transition.sources else state), kind


def test_a_move_with_a_source_changes_only_that_one(database: Database) -> None:
    for kind, transition in TRANSITIONS.items():
        if len(transition.sources) > 1:
            for source in transition.sources:
                ids = one_of_each(database)
                assert moved(database, ids, kind, source) == {ids[source]}, kind


def one_of_each(database: Database) -> dict[str, int]:
    """A task in each state: state → task id."""
    accepted = submit(database, ", ".join(TaskState))
    for state, task_id in accepted.task_ids.items():
        write(database, "UPDATE task_state SET state = :state WHERE task_id = :id", state=state, id=task_id)
    return accepted.task_ids


def moved(database: Database, ids: dict[str, int], kind: Move, source: TaskState | None = None) -> set[int]:
    """Apply a move to all of `ids`; returns those that the database says it changed."""

    def apply(tx: Transaction) -> set[int]:
        rows = {"moved": document([task_id] for task_id in ids.values())}
        statement = moves.move(tx.dialect, kind, moves.moved(tx.dialect), source=source)
        return {row.task_id for row in tx.execute(statement, rows)}

    return database.run_sync(apply)


def test_no_other_word_can_be_stored_as_a_state(database: Database) -> None:
    submit(database, "a")
    for table in ("task_state", "run"):
        with pytest.raises(Exception, match="ck_"):
            write(database, f"UPDATE {table} SET state = 'ready'")
