"""What is wrong with a workflow is told when it is saved, arguments included."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, model_validator

from engine import Callback, Context, Engine, UndoFunction, Workflow, WorkflowTask, task
from engine.errors import WorkflowError
from engine.model.json import JSON

pytestmark = pytest.mark.anyio


@task
async def load(region: str, day: int = 1) -> int:
    return day


@task(required=["rows"])
async def report(ctx: Context, title: str = "") -> JSON:
    return ctx.get_param("rows")


@task
async def undo(seat: str, _result: JSON) -> None: ...


class Card(BaseModel):
    number: str


class Iban(BaseModel):
    iban: str


class Told(BaseModel):
    """Its validator raises what it likes for anything but an object."""

    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        return {"name": given.get("name")}


@task
async def pay(method: Card | Iban) -> None: ...


@task
async def tell(_result: Told) -> None: ...


def call(function: str, name: str = "t", **fields: Any) -> WorkflowTask:
    return WorkflowTask(name, function=function, **fields)


async def told(database_url: str, *tasks: WorkflowTask) -> str:
    flow = Workflow("flow", tasks=tasks)
    async with Engine(database_url, functions=[load, report, undo, pay, tell]) as engine:
        try:
            await engine.execute(flow)
        except WorkflowError as error:
            assert await engine.list_workflows() == []
            return str(error)
    return ""


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (call("load"), 'tasks[0].params: invalid params of function "load": region: missing'),
        (call("load", params={"region": "eu", "dey": 5}), 'dey: unknown; did you mean "day"?'),
        (call("load", params={"region": "${region}", "day": "x"}), "day: Input should be a valid integer"),
        (call("tell", params={"_result": 5}), "AttributeError: 'int' object has no attribute 'get'"),
        (call("load", params={"regoin": "${{ params.x }}"}), 'regoin: unknown; did you mean "region"?'),
        (call("load", result_mapping={"reegion": "r"}, params={"region": "eu"}), "reegion: unknown"),
        (WorkflowTask("t", kind="http", params={"urll": "http://x"}), 'did you mean "url"?'),
        (WorkflowTask("t", kind="sleep", params={"duration_ms": -1}), "tasks[0].params: "),
        (
            call("load", params={"region": "eu"}, compensation=UndoFunction("undo", {"seet": 1})),
            'tasks[0].compensation.params: invalid params of function "undo": seat: missing',
        ),
    ],
)
async def test_arguments_that_can_never_fit_are_refused(
    database_url: str, wrong: WorkflowTask, message: str
) -> None:
    assert message in await told(database_url, wrong)


async def test_on_a_database_of_its_own_it_has_all_kinds() -> None:
    wrong = WorkflowTask("t", kind="nokind")
    assert 'tasks[0].kind: unknown kind "nokind"' in await told("sqlite://", wrong)


async def test_what_is_known_only_later_is_not_looked_at(database_url: str) -> None:
    callbacks = [Callback("success", "report")]
    undone = UndoFunction("undo", {"seat": "A1"})
    assert not await told(
        database_url,
        call("load", "a", params={"region": "eu", "day": "${{ tasks.b.result }}"}, depends_on=["b"]),
        call("load", "b", params={"region": "eu"}, compensation=undone, callbacks=callbacks),
        call("load", "c", result_mapping={"region": "region"}, depends_on=["b"]),
        call("report", "d", depends_on=["a"]),
        call("report", "f", required_params=["rows"], depends_on=["a"]),
        WorkflowTask("g", kind="noop", required_params=["rows"], depends_on=["a"]),
        call("pay", "h", params={"method": {"number": "${{ tasks.a.result }}"}}, depends_on=["a"]),
        call("load", "i", params={"region": "eu"}, compensation=UndoFunction("tell")),
        WorkflowTask(
            "e", kind="http", params={"url": "${{ tasks.a.result }}", "method": "GET"}, depends_on=["a"]
        ),
    )
