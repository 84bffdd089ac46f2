"""What `@workflow`, calls and added tasks can say: all that the constructors can."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from datetime import date
from typing import Annotated, Any, Optional

import pytest
from hypothesis import HealthCheck, given, settings

from engine.errors import ConfigError, GraphError
from engine.functions.context import Context
from engine.functions.decorator import CallOptions, task
from engine.model.graph import Limit, Rule
from engine.model.parameters import Param, ParamType
from engine.model.realtime import RealtimeTask
from engine.model.retry import RetryPolicy
from engine.model.workflow_rules import check
from engine.model.workflows import Callback, CallbackState, UndoFunction, Workflow, WorkflowTask
from engine.sdk.authoring import WorkflowOptions, workflow
from engine.sdk.recording import add_task
from tests.support.workflows import workflows


@task
def extract(day: date, source: str = "db") -> dict[str, Any]:
    """Fetch a day."""
    return {"day": day, "source": source}


@task(retries=2, retry_delay=5, timeout=60)
def transform(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows


@task(name="store", queue="db", required=["table"])
def load(ctx: Context, rows: Any, table: str = "t") -> int:
    return len(rows)


@task
async def notify(**words: Any) -> None: ...


@task
def audit(ctx: Context) -> None: ...


def tasks_of(function: Callable[[], Any]) -> dict[str, WorkflowTask]:
    """By name, of the workflow that `function` is the body of; it meets the rules of workflows."""
    built: Workflow = workflow(function)()
    check(built)
    return {each.name: each for each in built.tasks}


def test_options_say_all_that_a_task_can_have() -> None:
    def body() -> None:
        first = extract("2026-01-01")  # type: ignore[arg-type]
        transform.options(
            description="Tens.",
            after=first,
            limits={"gpu": 2},
            result_mapping={"rows": "items"},
            callbacks=[("failed", audit), Callback(CallbackState.SUCCESS, "notify", "to all")],
            is_template=True,
        )()  # type: ignore[call-arg]  # the mapping gives it
        load.options(required=["rows", "table"], rule=Rule.ALWAYS, name="kept")()  # type: ignore[call-arg]

    tasks = tasks_of(body)
    assert tasks["transform"] == WorkflowTask(
        "transform",
        description="Tens.",
        function="transform",
        depends_on=["extract"],
        limits={"gpu": 2},
        result_mapping={"rows": "items"},
        callbacks=[
            Callback(CallbackState.FAILED, "audit"),
            Callback(CallbackState.SUCCESS, "notify", "to all"),
        ],
        is_template=True,
    )
    assert (tasks["kept"].required_params, tasks["kept"].rule) == (("rows", "table"), Rule.ALWAYS)


def test_a_call_says_what_it_was_told_and_leaves_the_rest_to_the_function() -> None:
    @task(limits={"gpu": 1}, retries=3, timeout=9, queue="slow", priority=5)
    def train() -> None: ...

    def body() -> None:
        train()
        train.options(limits={}, retries=0, queue="default", priority=0)()
        train.options(retry_delay=5)()

    silent, told, waits = tasks_of(body).values()
    assert silent == WorkflowTask("train", function="train")
    assert told == replace(silent, name="train-2", limits={}, retry_count=0, queue="default", priority=0)
    assert waits == replace(silent, name="train-3", retry_interval_ms=5_000)
    spec = train.spec()
    assert (spec.limits, spec.retry.max_attempts, spec.timeout_ms) == ((Limit("gpu", 1),), 4, 9_000)


def test_a_function_may_wait_as_no_workflow_could_say() -> None:
    @task(retry=RetryPolicy(max_attempts=3, initial_ms=10))
    def flaky() -> None: ...

    [task_of_it] = tasks_of(lambda: flaky()).values()
    assert task_of_it == WorkflowTask("flaky", function="flaky")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: task(retires=2)(print), "there is no option 'retires'; did you mean \"retries\""),
        (
            lambda: audit.options(limit={}),
            'task "audit": there is no option \'limit\'; did you mean "limits"',
        ),
        (lambda: audit.options(condition="x"), "there is no option 'condition'; say 'when'"),
        (lambda: audit.options(depends_on=[]), "there is no option 'depends_on'; say 'after'"),
        (lambda: audit.options(required_params=[]), 'did you mean "required"'),
        (lambda: audit.options(compensation="u"), 'did you mean "compensate"'),
        (lambda: workflow(params=["day"])(lambda: None), "params are declarations or defaults by name"),
        (lambda: workflow(transaction=True)(lambda: None), 'did you mean "transactional"'),
        (lambda: workflow(tasks=[])(lambda: None), "workflow \"<lambda>\": there is no option 'tasks'"),
    ],
)
def test_an_option_that_is_none_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_a_workflow_says_of_itself_what_the_constructor_can() -> None:
    built = {"tasks", "realtime_tasks"}
    assert {*WorkflowOptions.__annotations__} == {each.name for each in fields(Workflow)} - built


def test_calls_say_of_their_tasks_what_the_constructor_can() -> None:
    words = {
        "depends_on": "after",
        "condition": "when",
        "timeout_ms": "timeout",
        "retry_count": "retries",
        "retry_interval_ms": "retry_delay",
        "required_params": "required",
        "compensation": "compensate",
    }
    by_the_call = {"function", "kind", "params"}  # other kinds: `add_task`
    said = {words.get(each.name, each.name) for each in fields(WorkflowTask)} - by_the_call
    assert {*CallOptions.__annotations__} == said | {"retry"}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(workflows())
def test_whatever_a_constructor_says_a_workflow_function_can_say(given: Workflow) -> None:
    own = {name: getattr(given, name) for name in WorkflowOptions.__annotations__}

    @workflow(**own)
    def told() -> None:
        for each in (*given.tasks, *given.realtime_tasks):
            add_task(each)

    assert told.definition() == told() == given


def test_tasks_of_any_kind_use_results_and_parameters() -> None:
    @workflow
    def etl(day: str) -> None:
        rows = extract("2026-01-01")  # type: ignore[arg-type]
        sent = add_task(
            WorkflowTask(
                "send",
                kind="http",
                params={"url": f"https://x/{day}", "body": rows},  # type: ignore[dict-item]
                condition=f"{rows.count} > 1",  # type: ignore[attr-defined]
                compensation=UndoFunction("audit", {"day": day}),
            )
        )
        add_task(WorkflowTask("wait", kind="noop", depends_on=[sent, "extract"]))
        add_task(RealtimeTask("follow", function="notify", params={"day": day}, depends_on=[sent]))
        notify(answer=sent.status)

    built = etl.definition()
    check(built)
    [_, sent, wait, told] = built.tasks
    assert sent == WorkflowTask(
        "send",
        kind="http",
        params={"url": "https://x/${{ params.day }}", "body": "${{ tasks.extract.result }}"},
        depends_on=["extract"],
        condition="tasks.extract.result.count > 1",
        compensation=UndoFunction("audit", {"day": "${{ params.day }}"}),
    )
    assert wait.depends_on == ("send", "extract")
    assert (told.depends_on, told.params) == (("send",), {"answer": "${{ tasks.send.result.status }}"})
    assert built.realtime_tasks[0] == RealtimeTask(
        "follow", function="notify", params={"day": "${{ params.day }}"}, depends_on=["send"]
    )


def test_a_task_is_added_to_nothing_outside_of_a_workflow() -> None:
    with pytest.raises(GraphError, match="a function decorated with @workflow"):
        add_task(WorkflowTask("a", kind="noop"))


def test_types_of_arguments_become_types_of_parameters() -> None:
    @workflow(params={"day": Param(type=ParamType.STRING, required=True, description="ISO"), "more": 1})
    def typed(
        day: date,
        rows: list,  # type: ignore[type-arg]
        names: list[str],
        both: tuple[int, int],
        by_name: dict,  # type: ignore[type-arg]
        counts: Mapping[str, int],
        maybe: Optional[int],  # noqa: UP045
        note: Annotated[str, "shown"],
        left: Optional[int] = None,  # noqa: UP045
        other: dict[str, int] | None = None,
        either: int | str = 1,
    ) -> None:
        audit()

    built = typed.definition()
    check(built)
    assert {name: param.type.value for name, param in built.params.items()} == {
        "day": "string",
        "rows": "array",
        "names": "array",
        "both": "array",
        "by_name": "object",
        "counts": "object",
        "maybe": "any",  # required, and null is fine: no other type says so
        "note": "string",
        "left": "integer",
        "other": "object",
        "either": "any",
        "more": "any",
    }
    assert built.params["day"].description == "ISO" and built.params["more"] == Param(1)
    assert typed(*[None] * 8).params == {"more": Param(1)}  # type: ignore[call-arg, arg-type]
