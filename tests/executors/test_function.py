"""Calling functions: what all have in common, and those that run on the loop."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.errors import PermanentError, RetryAfter
from engine.executors.function import basic_ports
from engine.executors.registry import ExecutorRegistry
from engine.functions.context import Context
from engine.functions.decorator import task
from engine.model.json import JSON
from engine.model.outcomes import Failed, Succeeded
from tests.executors import functions
from tests.executors.calling import Make, asking, call, failure, multiply, result
from tests.executors.factories import make_context
from tests.executors.worlds import World

pytestmark = pytest.mark.anyio


@task
async def add(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


@pytest.mark.parametrize(("name", "expected"), [("add", 4), ("multiply", 6), ("square", 9)])
async def test_functions_are_called_with_typed_arguments(
    make: Make, world: World, name: str, expected: int
) -> None:
    executor = make(add, multiply, functions.square)
    key = "n" if name == "square" else "a"
    assert result(await call(executor, world, name, **{key: "3"})) == expected
    refused = failure(await call(executor, world, name, **{key: "three"}))
    assert (refused.code, refused.is_permanent) == ("invalid_params", True)
    assert f'invalid params of function "{name}": {key}: Input should be a valid integer' in refused.message
    assert refused.details["problems"][0]["path"] == key
    assert world.pieces == []  # no traceback


@task
async def seat(number: int, ctx: Context, _result: JSON = None) -> JSON:
    return [number, _result, ctx.get_param("_task_name")]


@pytest.mark.parametrize("how", ["async", "thread", "process"])
async def test_what_is_offered_goes_to_arguments_that_there_are_and_to_the_context(
    make: Make, world: World, how: str
) -> None:
    offered = {"_result": "A1", "_task_name": "reserve", "n": 5}
    name = {"async": "seat", "thread": "multiply", "process": "square"}[how]
    params = {"async": {"number": 7}, "thread": {"a": 3}, "process": {}}[how]
    given = {"function": name, "params": params, "offered": offered}
    expected = {"async": [7, "A1", "reserve"], "thread": 6, "process": 25}[how]
    executor = make(seat, multiply, functions.square)
    assert result(await executor.execute(make_context(world), given)) == expected
    params["seat"] = "B2"
    refused = failure(await executor.execute(make_context(world), given))
    assert "seat: unknown" in refused.message and "_result" not in refused.message.partition("(")[0]


@pytest.mark.parametrize(
    "params",
    [None, [], {"function": 3}, {"function": "add", "params": [1]}, {"function": "add", "offered": 1}],
)
async def test_params_of_another_shape_are_invalid(make: Make, params: JSON) -> None:
    refused = failure(await make(add).execute(make_context(), params))
    assert (refused.code, refused.is_permanent) == ("invalid_params", True)


async def test_a_name_without_code_fails_but_not_for_good(make: Make, world: World) -> None:
    missing = failure(await call(make(add), world, "ad"))
    assert (missing.code, missing.is_permanent) == ("unknown_function", False)
    assert "did you mean add?" in missing.message


async def test_submit_checks_what_is_known_by_then(make: Make) -> None:
    executor = make(add)
    executor.check(asking("add", a=1))
    executor.check(asking("add", a="${{ tasks.x.result }}"))
    for params, message in {
        "wrong": (asking("add", a="x"), "a: Input should be a valid integer"),
        "unknown": (asking("sub"), 'unknown function "sub"'),
        "shape": ([1], "expected the name of a registered function"),
    }.values():
        with pytest.raises(ValueError, match=message):
            executor.check(params)
    make(add, is_alone=False).check(asking("sub", any=1))


async def test_it_is_an_executor_like_any(make: Make) -> None:
    registry = ExecutorRegistry.from_executors([make(add)])
    assert registry.kinds() == ["function"]
    assert registry.unknown("function", {"function": "add", "parms": {}}).keys() == {"parms"}


@pytest.mark.parametrize("is_async", [True, False])
async def test_exceptions_are_failures_with_a_traceback_in_the_log(
    make: Make, world: World, is_async: bool
) -> None:
    async def waits() -> None:
        raise ValueError("not that")

    def blocks() -> None:
        raise ValueError("not that")

    registered = waits if is_async else blocks
    failed = failure(await call(make(registered), world, registered.__name__))
    assert (failed.message, failed.details) == ("ValueError: not that", {"type": "ValueError"})
    assert not failed.is_permanent
    logged = world.logged("log")
    assert f"in {registered.__name__}" in logged and logged.rstrip().endswith("ValueError: not that")
    assert "perform" not in logged


async def test_exceptions_may_say_what_is_to_follow(make: Make, world: World) -> None:
    def never() -> None:
        raise PermanentError("no such table")

    async def later() -> None:
        raise RetryAfter(12.5, "busy")

    executor = make(never, later)
    permanent = failure(await call(executor, world, "never"))
    assert (permanent.message, permanent.code) == ("no such table", "permanent_failure")
    assert permanent.is_permanent
    delayed = failure(await call(executor, world, "later"))
    assert (delayed.message, delayed.code, delayed.retryable) == ("busy", "retry_after", True)
    assert delayed.delay_ms == 12_500


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseException("odd")])
async def test_no_exception_takes_the_worker_along(make: Make, world: World, error: BaseException) -> None:
    def blocks() -> None:
        raise error

    assert type(error).__name__ in failure(await call(make(blocks), world, "blocks")).message


async def test_a_function_may_return_an_outcome(make: Make, world: World) -> None:
    def branches() -> Succeeded:
        return Succeeded({"s": {1}}, branch="yes")

    async def fails() -> Failed:
        return Failed("no", code="mine")

    executor = make(branches, fails)
    assert await call(executor, world, "branches") == Succeeded({"s": [1]}, branch="yes")
    assert await call(executor, world, "fails") == Failed("no", code="mine")


async def test_a_result_that_is_no_json_fails_for_good(make: Make, world: World) -> None:
    failed = failure(await call(make(functions.fail), world, "fail", how="object"))
    assert failed.is_permanent and "the result cannot be made into JSON: object at a" in failed.message


async def test_upstream_results_are_read_only_for_those_who_may_look(make: Make, world: World) -> None:
    async def looks(ctx: Context) -> Any:
        return ctx.get_all_upstream_results()

    async def needs(rows: int) -> int:
        return rows

    executor = make(add, looks)
    executor._registry.add(needs, required=["rows"])
    await call(executor, world, "add", a=1)
    await call(executor, world, "needs", rows=1)
    assert world.looks == 0
    assert result(await call(executor, world, "looks")) == {"extract": {"rows": 3}}
    assert result(await call(executor, world, "needs")) == 3
    world.results = {}
    assert failure(await call(executor, world, "needs")).message == "missing required params: [rows]"


async def test_without_other_ports_a_function_has_those_of_its_attempt(make: Make, world: World) -> None:
    async def looks(ctx: Context) -> Any:
        await ctx.progress(1)
        return [await ctx.step("x", lambda: 2), ctx.get_upstream_int("extract", "rows")]

    executor = make(looks, ports=basic_ports)
    assert result(await call(executor, world, "looks")) == [2, 3]
    assert world.reports == [1]


# --- async


async def test_async_functions_use_the_context_on_the_loop(make: Make, world: World) -> None:
    async def works(n: int, ctx: Context) -> Any:
        await ctx.progress({"n": n})
        ids = await ctx.add_sub_tasks([multiply.spec({"a": 1}, name="sub")])
        return [ids, ctx.get_dependency("db"), ctx.workflow_id, await ctx.step("s", lambda: 4)]

    executor = make(works, services={"db": "connection"})
    assert result(await call(executor, world, "works", n=1)) == [[5], "connection", "wf-9", 4]
    assert (world.reports, [each.name for each in world.spawned]) == ([{"n": 1}], ["sub"])


async def test_a_cancelled_async_function_can_clean_up(make: Make, world: World) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def works() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    handle = asyncio.create_task(call(make(works), world, "works"))
    await begun.wait()
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert cleaned.is_set()
