"""Runs of saved workflows in transactions of the caller's own, on every kind of handle."""

from __future__ import annotations

from typing import Any

import pytest

from engine import Workflow, WorkflowTask
from engine.errors import Conflict, IdempotencyMismatch, InvalidInput, NotFound
from engine.model.parameters import Param
from engine.model.workflows import Callback
from engine.operations import executions, functions, workflows
from engine.store.database import Database
from tests.factories import KIND, do, end_all, states
from tests.sdk.callers import Caller
from tests.sdk.conftest import Contents, Run


@pytest.fixture
def saved(caller_url: str) -> Any:
    database = Database(caller_url, wake_others=False)
    task = WorkflowTask("only", kind=KIND, params={"day": "${day}"}, callbacks=[Callback("success", "note")])
    known = {"name": "note", "description": "", "origin": "tests", "params": None}
    do(functions.register(database, [known]))
    do(workflows.save(database, [Workflow("flow", params={"day": Param(required=True)}, tasks=[task])]))
    yield database
    database.close()


def test_the_run_is_there_if_the_transaction_commits(
    saved: Database, caller: Caller, contents: Contents, run: Run[Any]
) -> None:
    before = contents()
    run(caller.start("flow", {"day": "monday"}))
    run(caller.rollback())
    assert contents() == before
    accepted = run(caller.start("flow", {"day": "monday"}))
    run(caller.execute("INSERT INTO orders VALUES (1)"))
    assert contents() == before
    run(caller.commit())
    found = do(workflows.get_run(saved, accepted.run_id))
    assert (found.workflow_name, found.version, found.params) == ("flow", 1, {"day": "monday"})
    assert len(contents()["relay"]) == 1  # its callbacks will be called
    end_all(saved)
    assert states(saved, accepted.run_id) == {"only": "succeeded"}


def test_what_is_refused_leaves_the_transaction_usable(
    saved: Database, caller: Caller, contents: Contents, run: Run[Any]
) -> None:
    with pytest.raises(NotFound, match="workflow not found: flop"):
        run(caller.start("flop"))
    with pytest.raises(NotFound, match="flow version 7"):
        run(caller.start("flow", {"day": "x"}, version=7))
    with pytest.raises(InvalidInput, match="day"):
        run(caller.start("flow"))
    with pytest.raises(InvalidInput, match="cannot be stored"):
        run(caller.start("flow", {"day": float("nan")}))
    run(caller.rollback())  # a transaction on a SQLite file keeps others from writing
    do(workflows.enable(saved, "flow", False))
    with pytest.raises(Conflict, match="is disabled"):
        run(caller.start("flow", {"day": "x"}))
    run(caller.rollback())
    do(workflows.enable(saved, "flow", True))
    first = run(caller.start("flow", {"day": "x"}, key="order-7"))
    again = run(caller.start("flow", {"day": "x"}, key="order-7"))
    assert (again.run_id, again.is_repeat) == (first.run_id, True)
    with pytest.raises(IdempotencyMismatch):
        run(caller.start("flow", {"day": "y"}, key="order-7"))
    run(caller.commit())
    assert len(contents()["workflow_run"]) == 1
    assert do(executions.execute(saved, "flow", {"day": "z"})).run_id != first.run_id
