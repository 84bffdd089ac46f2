"""What cannot be meant is refused with an error of the engine that says what is accepted."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import Engine, ScheduleSpec, Workflow, WorkflowTask, from_yaml, task, to_yaml
from engine.errors import ConfigError, InvalidInput, WorkflowError

pytestmark = pytest.mark.anyio

flow = Workflow("w", tasks=[WorkflowTask("a", kind="noop")])


@task
def load() -> None: ...


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda e: e.save("workflows: {}"),
            "a definition is an engine.Workflow or a function decorated with",
        ),
        (lambda e: e.save(5), "a definition is an engine.Workflow"),
        (lambda e: e.execute(load), "a definition is an engine.Workflow .* got <task load"),
        (lambda e: e.execute(("x",)), "a definition is an engine.Workflow"),
        (lambda e: e.execute("w", [1]), "params are an object with their names as keys, got list"),
        (lambda e: e.execute("w", {"x": object()}), "params cannot be stored"),
        (lambda e: e.rerun(1, [1]), "params are an object"),
        (lambda e: e.rerun(1, {"x": object()}), "params cannot be stored"),
        (lambda e: e.workflow(flow), "a saved workflow is meant by its id or name, got Workflow"),
        (lambda e: e.history(flow), "a saved workflow is meant by its id or name"),
        (lambda e: e.delete_workflow(flow), "a saved workflow is meant by its id or name"),
        (
            lambda e: e.schedule(flow, ScheduleSpec("s", "@hourly")),
            "a saved workflow is meant by its id or name",
        ),
        (lambda e: e.change_schedule("w", params={"x": object()}), "params of a schedule cannot be stored"),
        (lambda e: e.list_runs(limit=-1), "limit is an integer from 0 to 1000000000, got -1"),
        (lambda e: e.list_runs(limit="1"), "limit is an integer"),
        (lambda e: e.list_runs(state="nope"), r"there is no state 'nope' \(known: cancelled, failed"),
        (lambda e: e.list_runs(state="faild"), "there is no state 'faild'; did you mean \"failed\""),
        (lambda e: e.tasks(1, limit=10**10), "limit is an integer"),
        (lambda e: e.tasks(1, state="nope"), "there is no state 'nope'"),
        (lambda e: e.events(1, limit=True), "limit is an integer"),
        (lambda e: e.logs(1, offset=-1), "offset is an integer"),
        (lambda e: e.history(limit=-1), "limit is an integer"),
        (lambda e: e.history(states=["failed", "nope"]), "there is no state 'nope'"),
        (lambda e: e.history(states="failed"), "states are a list, got the text 'failed'"),
        (lambda e: e.list_workflows(limit=-1), "limit is an integer"),
        (lambda e: e.workflow_versions("w", offset=-1), "offset is an integer"),
        (lambda e: e.list_schedules(limit=-1), "limit is an integer"),
        (lambda e: e.list_functions(limit=-1), "limit is an integer"),
    ],
)
async def test_an_engine_refuses(ask: Callable[[Engine], Awaitable[Any]], message: str) -> None:
    async with Engine("sqlite://") as e:
        await e.save(Workflow("w", cron="@hourly", tasks=flow.tasks))
        await e.execute("w")
        with pytest.raises(InvalidInput, match=message):
            await ask(e)


async def test_pages_end_where_they_say(database_url: str) -> None:
    async with Engine(database_url, workers=0) as e:
        for _ in "abc":
            await e.execute(flow)
        assert [len(await e.list_runs(limit=count)) for count in (0, 2, 10)] == [0, 2, 3]
        assert len(await e.list_runs(state=engine.RunState.PENDING)) == 3
        assert len(await e.history(states=["pending", engine.RunState.RUNNING])) == 3


def test_a_saved_workflow_is_meant_by_its_name_in_a_transaction_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'engine.db'}"
    with engine.SyncEngine(url, workers=0, shared=True) as e:
        e.save(flow)
        connection = sqlite3.connect(tmp_path / "engine.db", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(InvalidInput, match="a saved workflow is meant by its id or name, got Workflow"):
            engine.execute(connection, flow)  # type: ignore[call-overload]
        with pytest.raises(InvalidInput, match="params are an object"):
            engine.execute(connection, "w", [1])  # type: ignore[call-overload]
        engine.execute(connection, "w")
        connection.execute("COMMIT")
        connection.close()
        assert len(e.history("w")) == 1


def test_params_of_a_schedule_can_be_stored() -> None:
    with pytest.raises(
        InvalidInput, match="params of a schedule cannot be stored: object is not a JSON type"
    ):
        ScheduleSpec("x", "0 0 0 * * *", params={"q": object()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": 5}, "its name is a text, got int"),
        ({"queue": 5}, "queue is a text, got int"),
        ({"required": 5}, "required is a list of names, got 5"),
        ({"timeout": float("inf")}, "timeout is a number of seconds or a timedelta"),
        ({"timeout": float("nan")}, "timeout is a number of seconds or a timedelta"),
        ({"priority": None}, "a priority is an integer or one of low, medium, high, urgent, got None"),
    ],
)
def test_a_function_cannot_be_a_task_with(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task(**options)(lambda: None)


def test_yaml_is_read_from_text_and_made_of_workflows() -> None:
    @engine.workflow
    def told() -> None:
        load()

    with pytest.raises(InvalidInput, match="YAML is read from a text, got NoneType"):
        from_yaml(None)  # type: ignore[arg-type]
    for given in (5, [5], told, "w"):
        with pytest.raises(InvalidInput, match=r"YAML is made of engine\.Workflow"):
            to_yaml(given)  # type: ignore[arg-type]
    wrong = WorkflowTask("a", function=load)  # type: ignore[arg-type]
    with pytest.raises(WorkflowError, match=r"tasks\[0\]\.function: expected text, got a TaskFunction"):
        to_yaml(Workflow("w", tasks=[wrong]))
    with pytest.raises(InvalidInput, match="a workflow holds JSON alone"):
        to_yaml(Workflow("w", params={"x": object()}))
