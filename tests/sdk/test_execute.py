"""Runs of saved workflows in transactions of the caller's own, on every kind of handle."""

from __future__ import annotations

import json
import sqlite3
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import engine
from engine import Workflow, WorkflowTask
from engine.errors import Conflict, IdempotencyMismatch, InvalidInput, NotFound
from engine.model.parameters import Param
from engine.model.run_defaults import RunDefaults
from engine.model.workflows import Callback
from engine.operations import executions, functions, runs, workflows
from engine.store.database import Database
from engine.store.schema import metadata
from tests.factories import KIND, do, end_all, states
from tests.sdk.callers import Caller
from tests.sdk.conftest import Contents, Run

EACH = pytest.mark.parametrize("caller_url", ["sqlite", "postgres"], indirect=True)


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


@EACH
def test_the_json_of_the_caller_does_not_matter(saved: Database, caller_url: str) -> None:
    """It may read numbers as it likes; what runs gets the workflow as it was saved."""
    task = WorkflowTask("only", kind=KIND, params={"x": 0.5}, callbacks=[Callback("success", "note")])
    do(workflows.save(saved, [Workflow("exact", params={"y": Param(default=0.25)}, tasks=[task])]))
    of_theirs = partial(json.loads, parse_float=Decimal)
    theirs = sa.create_engine(
        caller_url, json_deserializer=of_theirs, json_serializer=lambda value: '"theirs"'
    )
    with theirs.begin() as connection:
        accepted = engine.execute(connection, "exact")
    theirs.dispose()
    found = do(workflows.get_run(saved, accepted.run_id))
    assert found.params == {"y": 0.25}
    [task_of_run] = do(runs.tasks(saved, accepted.run_id))
    assert task_of_run.params == {"x": 0.5}


def test_a_converter_of_sqlite_does_not_matter(tmp_path: Path, empty_file: Path) -> None:
    path = tmp_path / "app.db"
    path.write_bytes(empty_file.read_bytes())
    database = Database(f"sqlite:///{path}", wake_others=False)
    do(workflows.save(database, [Workflow("flow", tasks=[WorkflowTask("a", kind=KIND)])]))
    database.close()
    sqlite3.register_converter("JSON", json.loads)
    try:
        connection = sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES)
        assert engine.execute(connection, "flow", {"x": 1}).run_id
        connection.commit()
        connection.close()
    finally:
        sqlite3.converters.pop("JSON", None)  # type: ignore[attr-defined]


@EACH
def test_a_key_holds_for_the_workflow_by_whatever_name(saved: Database, caller_url: str) -> None:
    found = do(workflows.get(saved, "flow"))
    ours = sa.create_engine(caller_url)
    with ours.begin() as connection:
        accepted = [
            engine.execute(connection, name, {"day": "x"}, key="k") for name in ("flow", found.id, "flow")
        ]
    ours.dispose()
    assert len({each.run_id for each in accepted}) == 1


@EACH
@pytest.mark.parametrize(("defaults", "timeout_ms"), [(None, 30_000), (RunDefaults(timeout_ms=7_200), 7_200)])
def test_defaults_of_tasks_come_with_the_call(
    saved: Database, caller_url: str, contents: Contents, defaults: RunDefaults | None, timeout_ms: int
) -> None:
    ours = sa.create_engine(caller_url)
    with ours.begin() as connection:
        engine.execute(connection, "flow", {"day": "x"}, run_defaults=defaults)
    ours.dispose()
    place = list(metadata.tables["task"].c.keys()).index("timeout_ms")
    assert [row[place] for row in contents()["task"]] == [timeout_ms]


@pytest.mark.anyio
@pytest.mark.parametrize("wrong", [{"x": object()}, {1: 2}, {"x": "\ud800"}])
async def test_an_engine_refuses_what_cannot_be_stored(wrong: Any) -> None:
    flow = Workflow("flow", tasks=[WorkflowTask("a", kind="noop")])
    async with engine.Engine("sqlite://", workers=0) as program:
        with pytest.raises(InvalidInput, match="cannot be stored"):
            await program.execute(flow, wrong, key="k")
        first = await program.execute(flow, {"x": 1}, key="k")
        assert (await program.execute("flow", {"x": 1}, key="k")).run_id == first.run_id
