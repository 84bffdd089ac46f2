"""Workflows written as functions that call tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from engine.errors import GraphError
from engine.functions.context import Context
from engine.functions.decorator import task
from engine.model.graph import Rule
from engine.model.parameters import Param, ParamType
from engine.model.retry import Backoff, RetryPolicy
from engine.model.workflow_rules import check
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from engine.sdk.authoring import workflow
from engine.sdk.recording import add_task


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


def refused(function: Callable[[], Any]) -> str:
    with pytest.raises(GraphError) as raised:
        workflow(function)()
    return str(raised.value)


def test_calling_tasks_builds_the_graph() -> None:
    @workflow(name="nightly", cron="0 0 2 * * *", labels={"team": "x"})
    def etl(day: date) -> None:
        """Every night."""
        rows = extract(day)
        clean = transform(rows["items"])  # type: ignore[arg-type]  # a field of what it returns
        load(clean, table="days")

    built = etl(date(2026, 3, 1))
    check(built)
    assert built == Workflow(
        name="nightly",
        description="Every night.",
        cron="0 0 2 * * *",
        labels={"team": "x"},
        tasks=[
            WorkflowTask(
                "extract", description="Fetch a day.", function="extract", params={"day": "2026-03-01"}
            ),
            WorkflowTask(
                "transform",
                function="transform",
                params={"rows": "${{ tasks.extract.result.items }}"},
                depends_on=["extract"],  # retries and timeout are looked up when a run starts
            ),
            WorkflowTask(
                "store",
                function="store",
                params={"rows": "${{ tasks.transform.result }}", "table": "days"},
                depends_on=["transform"],
                required_params=["table"],
            ),
        ],
    )


def test_outside_of_a_workflow_tasks_are_plain_functions() -> None:
    workflow(lambda: extract(date(2026, 1, 1)))()
    assert transform([{"a": 1}]) == [{"a": 1}]


def test_an_async_workflow_may_await_its_calls() -> None:
    @workflow
    async def asks() -> None:
        rows = extract("2026-01-01")  # type: ignore[arg-type]
        await notify(rows=rows, first=rows.first["a key"][0])  # type: ignore[attr-defined]

    [_, told] = asks().tasks
    assert told.params == {
        "rows": "${{ tasks.extract.result }}",
        "first": '${{ tasks.extract.result.first["a key"][0] }}',
    }


def test_a_workflow_may_await_nothing_else() -> None:
    async def waits() -> None:
        await asyncio.sleep(0)

    assert refused(waits) == "a workflow function may only await calls of tasks"


def test_results_inside_lists_objects_and_text_are_found() -> None:
    def body() -> None:
        a, b = extract("2026-01-01"), extract("2026-01-02")  # type: ignore[arg-type]
        notify(deep={"list": [a, (b,)]}, text=f"{b.name} and more")  # type: ignore[attr-defined]

    told = tasks_of(body)["notify"]
    assert told.depends_on == ("extract", "extract-2")
    assert told.params == {
        "deep": {"list": ["${{ tasks.extract.result }}", ["${{ tasks.extract-2.result }}"]]},
        "text": "${{ tasks.extract-2.result.name }} and more",
    }


def test_a_loop_gives_each_call_a_name_of_its_own() -> None:
    def body() -> None:
        extract.options(name="extract-2")("2026-01-01")  # type: ignore[arg-type]
        for day in range(1, 4):
            extract(date(2026, 1, day))

    assert [*tasks_of(body)] == ["extract-2", "extract", "extract-3", "extract-4"]


def test_many_calls_of_one_task_take_no_longer_each() -> None:
    def body() -> None:
        for _ in range(5_000):
            audit()

    assert "audit-5000" in {each.name for each in workflow(body)().tasks}


def test_options_change_one_call() -> None:
    def body() -> None:
        first = audit()
        rows = extract("2026-01-01")  # type: ignore[arg-type]
        load.options(
            name="load-eu",
            after=[first, "extract"],
            when=f"{rows.count} > 0 && params.go",  # type: ignore[attr-defined]
            rule="none_failed",
            retries=1,
            timeout=2.5,
            queue="eu",
            priority="high",
            compensate=(transform, {"rows": []}),
        )(rows)

    assert tasks_of(body)["load-eu"] == WorkflowTask(
        "load-eu",
        function="store",
        params={"rows": "${{ tasks.extract.result }}"},
        depends_on=["extract", "audit"],
        rule=Rule.NONE_FAILED,
        condition="tasks.extract.result.count > 0 && params.go",
        timeout_ms=2_500,
        retry_count=1,
        queue="eu",
        priority=10,
        required_params=["table"],
        compensation=UndoFunction("transform", {"rows": []}),
    )


def test_a_condition_may_be_a_result_and_is_written_for_cel() -> None:
    def body() -> None:
        audit()
        again = audit()
        other = audit.options(name="Prüfung")()
        audit.options(when=again.has_rows)()  # type: ignore[attr-defined]
        audit.options(when=f"{other['in'].size} > 1", compensate=audit)()  # type: ignore[index]

    tasks = tasks_of(body)
    assert tasks["audit-3"].condition == 'tasks["audit-2"].result.has_rows'
    assert tasks["audit-3"].depends_on == ("audit-2",)
    assert tasks["audit-4"].condition == 'tasks["Prüfung"].result["in"].size > 1'
    assert tasks["audit-4"].compensation == UndoFunction("audit")


def test_arguments_of_the_saved_workflow_are_its_parameters() -> None:
    @workflow
    def etl(day: date, size: int, source: str = "db", *, deep: Any = None) -> None:
        extract(day, source)
        notify(text=f"{day} done", size=size)

    built = etl.definition()
    check(built)
    assert built.params == {
        "day": Param(required=True),
        "size": Param(type=ParamType.INTEGER, required=True),
        "source": Param("db", ParamType.STRING),
        "deep": Param(None),
    }
    assert [each.params for each in built.tasks] == [
        {"day": "${{ params.day }}", "source": "${{ params.source }}"},
        {"text": "${{ params.day }} done", "size": "${{ params.size }}"},
    ]


def test_a_condition_reads_parameters_of_the_workflow_through_the_task_s_own() -> None:
    @workflow
    def etl(day: Any, size: int) -> None:
        notify.options(when=f"{day.week} < 3 && {size} > 1")(on=day, many=size)

    built = etl.definition()
    assert built.tasks[0].condition == "params.on.week < 3 && params.many > 1"

    @workflow
    def other(size: int) -> None:
        audit.options(when=f"{size} > 1")()

    with pytest.raises(GraphError, match="when reads the parameter size of the workflow"):
        other.definition()


def test_a_workflow_inside_another_adds_its_tasks() -> None:
    @workflow
    def inner(day: date) -> Any:
        return extract(day)

    def outer() -> None:
        first, second = inner(date(2026, 1, 1)), inner(date(2026, 1, 2))
        notify(both=[first, second])

    tasks = tasks_of(outer)
    assert [*tasks] == ["extract", "extract-2", "notify"]
    assert tasks["notify"].depends_on == ("extract", "extract-2")


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda rows: [*rows], "cannot go through it"),
        (lambda rows: bool(rows.ready), "cannot ask whether it is true"),
        (lambda rows: len(rows), "cannot count it"),
        (lambda rows: rows.region == "eu", "cannot compare it (`.options(when=…)` does"),
        (lambda rows: rows.region != "eu", "cannot compare it"),
        (lambda rows: rows.count > 3, "cannot compare it"),
        (lambda rows: rows.region in ("eu", "us"), "cannot compare it"),
        (lambda rows: rows.region in {"eu", "us"}, "cannot look it up"),
        (lambda rows: {"eu": 1}.get(rows.region), "cannot look it up"),
        (lambda rows: "eu" in rows, "cannot ask what it holds"),
        (lambda rows: rows.count + 1, "cannot calculate with it"),
        (lambda rows: 1 - rows.count, "cannot calculate with it"),
        (lambda rows: range(rows.count), "cannot calculate with it"),
        (
            lambda rows: f"{rows.count:.2f}",
            "is only known when the workflow runs; a task can write it as .2f",
        ),
        (lambda rows: rows[-1], "positions in a result count from 0"),
        (lambda rows: rows[1.5], "is a text or a position, got float"),
    ],
)
def test_a_result_cannot_be_looked_into(use: Callable[[Any], Any], message: str) -> None:
    assert message in refused(lambda: use(extract("2026-01-01")))  # type: ignore[arg-type]


def test_a_parameter_cannot_be_matched() -> None:
    @workflow
    def chooses(region: str) -> None:
        match region:
            case "eu":
                audit()
            case _:
                extract(date(2026, 1, 1))

    with pytest.raises(GraphError, match=r"params\.region is only known when the workflow runs"):
        chooses.definition()
    assert [each.name for each in chooses("eu").tasks] == ["audit"]


def test_a_handle_says_what_it_stands_for() -> None:
    seen: list[Any] = []
    workflow(lambda: seen.append(audit()))()
    assert repr(seen[0].rows) == "<result tasks.audit.result.rows>"
    with pytest.raises(AttributeError):
        seen[0].__len_hint__()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda: transform(), 'task "transform": invalid params of function "transform": rows: missing'),
        (lambda: transform([], 3), 'task "transform": too many positional arguments'),
        (lambda: transform([3]), 'invalid params of function "transform": rows.0: Input should be'),
        (lambda: audit.options(rule="maybe")(), "rule 'maybe' is not one of all_success, all_done"),
        (lambda: audit.options(limits={"k": 0})(), "limit 'k' is an integer from 1 to"),
        (lambda: audit.options(limits="k")(), "limits are numbers by name"),
        (lambda: audit.options(callbacks=["audit"])(), "callbacks lists engine.Callback, or (state, task)"),
        (lambda: audit.options(callbacks=[("fail", audit)])(), "callbacks[0].state: expected one of success"),
        (lambda: audit.options(required="rows")(), "required_params: expected a list, got text 'rows'"),
        (lambda: transform.options(result_mapping={"row": "r"})([]), 'row: unknown; did you mean "rows"'),
        (lambda: add_task(WorkflowTask("a", params={"x": object()})), "params cannot be made into JSON"),
        (lambda: add_task(WorkflowTask("a", depends_on=["gone"])), 'there is no task "gone" before it'),
        (lambda: add_task(audit), "add_task takes a WorkflowTask or a RealtimeTask, got <task audit"),
        (lambda: [add_task(WorkflowTask("a", kind="noop")) for _ in "xy"], 'two tasks of the name "a"'),
        (lambda: audit.options(after=["gone"])(), 'there is no task "gone" before it'),
        (lambda: audit.options(after=[3])(), "after lists results of calls"),
        (lambda: audit.options(when="${{ tasks.gone.result }}")(), 'there is no task "gone" before it'),
        (lambda: audit.options(when=3)(), "when is a text or a result"),
        (lambda: audit.options(retries=-1)(), "retries is an integer"),
        (lambda: audit.options(compensate=3)(), "compensate is a task"),
        (lambda: [audit.options(name="a")() for _ in "xy"], 'has two tasks of the name "a"'),
        (lambda: notify(x=object()), "argument x cannot be made into JSON: object"),
        (lambda: notify(x="${{ nothing }}"), "expected tasks.… or params.…"),
    ],
)
def test_what_is_wrong_is_told_with_the_task(body: Callable[[], Any], message: str) -> None:
    said = refused(body)
    assert message in said and 'workflow "<lambda>"' in said


def test_a_result_of_another_workflow_is_refused() -> None:
    kept: list[Any] = []
    workflow(lambda: kept.append(audit()))()
    assert "<result tasks.audit.result> belongs to another workflow" in refused(lambda: notify(x=kept[0]))


def test_what_a_workflow_cannot_keep_is_refused() -> None:
    retry = RetryPolicy(max_attempts=3, factor=3.0)
    with pytest.raises(GraphError, match='task "audit": a workflow keeps retries and retry_delay'):
        workflow(lambda: audit.options(retry=retry)())()
    fixed = RetryPolicy(max_attempts=3, backoff=Backoff.FIXED, initial_ms=7)
    [kept] = workflow(lambda: audit.options(retry=fixed)())().tasks
    assert (kept.retry_count, kept.retry_interval_ms) == (2, 7)


def test_a_parameter_without_a_name_is_refused() -> None:
    with pytest.raises(GraphError, match="argument days cannot be a parameter"):
        workflow(lambda *days: None).definition()
