"""Functions as tasks of an embedded engine, from the decorator to the result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import engine
from engine.definitions import from_yaml
from engine.errors import RetryAfter
from engine.executors.function import FunctionExecutor
from engine.executors.registry import ExecutorRegistry
from engine.functions.context import Context, SyncContext
from engine.functions.decorator import task
from engine.functions.registry import FunctionRegistry
from engine.model.graph import Rule
from engine.model.workflow_graph import graph_of
from engine.model.workflows import Workflow, WorkflowTask
from engine.sdk.authoring import workflow
from tests.executors import functions
from tests.worker.bench import until

pytestmark = pytest.mark.anyio

blocked, go_on = threading.Event(), threading.Event()


@task
async def extract(day: str, ctx: Context) -> dict[str, Any]:
    await ctx.progress({"at": day})
    ctx.log(f"attempt {ctx.attempt}")
    return {"items": [1, 2, 3], "day": day}


@task
def load(squares: list[int], ctx: SyncContext) -> dict[str, Any]:
    print("loading")
    return {"count": len(squares), "upstream": sorted(ctx.get_all_upstream_results())}


@task(retries=2, retry_delay=0.01)
async def third_time(ctx: Context) -> int:
    if ctx.attempt < 3:
        raise RetryAfter(0.01)
    return ctx.attempt


@task
def own_id(ctx: SyncContext) -> dict[str, str]:
    return {"id": str(ctx.task_id)}


@task
async def by_id(ctx: Context) -> Any:
    [told] = ctx.get_all_upstream_results().values()
    return ctx.get_upstream_result(told["id"])


@task
def by_id_in_a_thread(ctx: SyncContext) -> Any:
    [told] = ctx.get_all_upstream_results().values()
    return ctx.get_upstream_result(told["id"])


@task(timeout=0.05)
def stuck() -> None:
    blocked.set()
    go_on.wait()


@task
async def split(ctx: Context) -> list[int]:
    return await ctx.add_sub_tasks([functions.square.spec({"n": n}, name=f"square-{n}") for n in (2, 3)])


BY_ID = [own_id, by_id, by_id_in_a_thread, functions.by_id_in_a_process]


@asynccontextmanager
async def opened() -> AsyncIterator[tuple[engine.Engine, FunctionExecutor]]:
    """Not a fixture: pytest would take the output back that the engine captures."""
    executor = FunctionExecutor(
        FunctionRegistry([extract, functions.square, load, third_time, stuck, split, *BY_ID])
    )
    registry = ExecutorRegistry.from_executors([executor])
    options = engine.WorkerOptions(poll_seconds=0.05)
    try:
        async with engine.Engine("sqlite://", registry=registry, options=options) as e:
            yield e, executor
    finally:
        await executor.close()


async def ended(e: engine.Engine, graph: engine.Graph) -> dict[str, engine.Task]:
    accepted = await e.submit(graph)
    run = await e.wait(accepted.run_id, timeout=60)
    return {each.name: each for each in await e.tasks(run.id)}


def result(task: engine.Task) -> Any:
    assert task.last is not None and task.state == "succeeded", task
    return task.last.result


async def test_a_workflow_of_functions_runs_to_its_end() -> None:
    @workflow
    def etl(day: str) -> None:
        rows = extract(day)
        squares = [functions.square(rows["items"][n]) for n in range(3)]  # type: ignore[index]
        loaded = load(squares)
        load.options(name="many", when=f"{loaded['count']} > 5")([])

    async with opened() as (e, _):
        tasks = await ended(e, graph_of(etl("2026-03-01")))
        run_id = tasks["load"].run_id
        while len(lines := await e.logs(run_id)) < 2:  # written a moment later
            await asyncio.sleep(0.01)
    assert result(tasks["square-3"]) == 9
    assert result(tasks["load"]) == {"count": 3, "upstream": ["square", "square-2", "square-3"]}
    assert tasks["many"].state == "skipped"
    assert tasks["extract"].progress == {"at": "2026-03-01"}
    assert {(line.task_name, line.stream, line.text) for line in lines} == {
        ("extract", "log", "attempt 1"),
        ("load", "stdout", "loading"),
    }


async def test_retries_and_sub_tasks_are_those_of_any_task() -> None:
    async with opened() as (e, _):
        tasks = await ended(e, engine.graph([third_time.spec(), split.spec()]))
    assert result(tasks["third_time"]) == 3
    assert [result(tasks[f"square-{n}"]) for n in (2, 3)] == [4, 9]


async def test_what_the_decorator_says_holds_for_a_function_that_is_called_by_name() -> None:
    flow = from_yaml(
        "workflows: {definitions: [{workflow_id: w, tasks: [{task_id: a, func_key: third_time}]}]}"
    )
    async with engine.Engine("sqlite://", functions=[third_time]) as e:
        run = await e.wait((await e.execute(flow)).run_id, timeout=30)
        [done] = await e.tasks(run.id)
    assert (run.state, done.attempt, done.last and done.last.result) == ("succeeded", 3, 3)


@task
def picky(number: int) -> int:
    assert number, "none"
    return number


@task
async def fan(ctx: Context) -> None:
    await ctx.add_sub_tasks([picky.spec({"number": number}, name=f"sub-{number}") for number in range(3)])


@task
def count(ctx: SyncContext) -> list[Any]:
    failed = [each.task_name for each in ctx.get_failed_sub_task_results("fan")]
    return [ctx.all_sub_tasks_succeeded(), ctx.get_sub_task_count(), failed, ctx.get_upstream_result("fan")]


async def test_a_task_below_a_template_that_failed_sees_which_sub_tasks_did() -> None:
    tasks = [
        WorkflowTask("fan", function="fan", is_template=True),
        WorkflowTask("count", function="count", depends_on=["fan"], rule=Rule.ALL_DONE),
    ]
    async with engine.Engine("sqlite://", functions=[picky, fan, count]) as e:
        run = await e.wait((await e.execute(Workflow("w", tasks=tasks))).run_id, timeout=30)
        done = {each.name: each for each in await e.tasks(run.id)}
    assert done["fan"].state == "failed"
    last = done["count"].last
    assert last is not None and last.result == [False, 3, ["sub-0"], None]


async def test_wrong_parameters_are_refused_at_submit() -> None:
    async with opened() as (e, _):
        with pytest.raises(
            engine.GraphError, match=r'task "square": invalid params of function .*: n: missing'
        ):
            await e.submit(engine.graph([functions.square.spec()]))


async def test_a_thread_that_takes_too_long_fails_its_attempt() -> None:
    async with opened() as (e, executor):
        try:
            tasks = await ended(e, engine.graph([stuck.spec()]))
            assert blocked.is_set() and executor.overdue == 1
        finally:
            go_on.set()
    assert tasks["stuck"].last is not None and tasks["stuck"].last.error is not None
    assert (tasks["stuck"].state, tasks["stuck"].last.error["code"]) == ("failed", "timeout")


def only_here() -> str:
    return "here"


held, let_go = threading.Event(), threading.Event()


def hold() -> None:
    held.set()
    let_go.wait()


async def test_a_function_of_another_program_is_left_to_it(row_locking_url: str) -> None:
    """Programs with functions of their own share a database: whoever takes a task gives it back."""
    held.clear(), let_go.clear()
    async with engine.Engine(row_locking_url, functions=[only_here, hold], concurrency=1) as having:
        await having.submit(engine.Graph((call("hold"),)))  # it has no room for another one
        await asyncio.to_thread(held.wait)
        try:
            async with engine.Engine(row_locking_url, functions=[load]) as other:
                run_id = (await other.submit(engine.Graph((call("only_here"),)))).run_id

                async def is_given_back() -> bool:
                    [task] = await other.tasks(run_id)
                    return task.attempt >= 2

                await until(is_given_back)
                wrong = await other.wait((await other.submit(engine.Graph((call("no"),)))).run_id, timeout=60)
                [task] = await other.tasks(wrong.id)
                assert task.last is not None and task.last.error is not None
                assert task.last.error["code"] == "unknown_function"
        finally:
            let_go.set()
        assert (await having.wait(run_id, timeout=60)).state == "succeeded"
        [task] = await having.tasks(run_id)
        assert (task.failures, task.crashes) == (0, 0)


def call(name: str) -> engine.TaskSpec:
    return engine.TaskSpec("t", "function", {"function": name})


async def test_upstream_results_are_found_by_the_id_of_their_task() -> None:
    below = (engine.Dependency("own_id"),)
    async with opened() as (e, _):
        specs = [each.spec(depends_on=below) for each in BY_ID[1:]]
        found = await ended(e, engine.Graph((own_id.spec(), *specs)))
    expected = {"id": str(found["own_id"].id)}
    assert [result(found[spec.name]) for spec in specs] == [expected] * 3
