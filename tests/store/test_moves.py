"""Every state × every move, with real rows: a task changes exactly where `TRANSITIONS` says so."""

from __future__ import annotations

import pytest

from engine.model.states import TRANSITIONS, Move, TaskState
from engine.store.database import Database, Transaction
from engine.store.moves import move
from engine.store.statement import document
from tests.factories import rows, submit, write


@pytest.mark.parametrize("kind", Move)
def test_a_move_changes_exactly_its_source_states(database: Database, kind: Move) -> None:
    accepted = submit(database, ", ".join(TaskState))
    for state, task_id in accepted.task_ids.items():
        write(database, "UPDATE task_state SET state = :state WHERE task_id = :id", state=state, id=task_id)

    def apply(tx: Transaction) -> set[int]:
        moved = document([task_id] for task_id in accepted.task_ids.values())
        return {row.task_id for row in tx.execute(move(tx.dialect, kind), {"moved": moved})}

    changed = database.run_sync(apply)

    transition = TRANSITIONS[kind]
    assert changed == {accepted.task_ids[state] for state in transition.sources}
    now = dict(rows(database, "SELECT task_id, state FROM task_state"))
    for state, task_id in accepted.task_ids.items():
        assert now[task_id] == (transition.target if state in transition.sources else state)


@pytest.mark.parametrize("kind", [kind for kind in Move if len(TRANSITIONS[kind].sources) > 1])
def test_a_move_with_a_source_changes_only_that_one(database: Database, kind: Move) -> None:
    for source in sorted(TRANSITIONS[kind].sources):
        accepted = submit(database, ", ".join(TaskState))
        for state, task_id in accepted.task_ids.items():
            write(database, "UPDATE task_state SET state = :s WHERE task_id = :id", s=state, id=task_id)
        moved = document([task_id] for task_id in accepted.task_ids.values())
        changed = database.run_sync(
            lambda tx, source=source, moved=moved: tx.execute(
                move(tx.dialect, kind, source=source), {"moved": moved}
            ).all()
        )
        assert [row.task_id for row in changed] == [accepted.task_ids[source]]


def test_no_other_word_can_be_stored_as_a_state(database: Database) -> None:
    submit(database, "a")
    for table in ("task_state", "run"):
        with pytest.raises(Exception, match="ck_"):
            write(database, f"UPDATE {table} SET state = 'ready'")
