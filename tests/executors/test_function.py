"""Calling functions: on the loop, in threads that cannot be killed, and in processes that can."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, PermanentError, RetryAfter, UnknownKind
from engine.executors.base import ExecutorSettings
from engine.executors.function import FunctionExecutor, basic_ports
from engine.executors.registry import ExecutorRegistry
from engine.executors.threads import Threads
from engine.functions.context import Context, SyncContext
from engine.functions.decorator import task
from engine.functions.registry import FunctionRegistry
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.worker import capture
from tests.executors import functions
from tests.executors.factories import eventually, is_alive, make_context, make_settings
from tests.executors.worlds import World

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
PROCESS_TASKS = [thing for thing in vars(functions).values() if isinstance(thing, type(functions.square))]


Make = Callable[..., FunctionExecutor]


@pytest.fixture
async def world(anyio_backend: str) -> World:
    return World()


@pytest.fixture
async def make(world: World, settings: ExecutorSettings) -> AsyncIterator[Make]:
    """An executor of these functions; closed in the end."""
    made: list[FunctionExecutor] = []

    def make(*functions: Any, **options: Any) -> FunctionExecutor:
        given = {"settings": settings, "ports": world.ports, "threads": 4, "processes": 2, **options}
        made.append(FunctionExecutor(FunctionRegistry(functions), **given))
        return made[-1]

    yield make
    for executor in made:
        await executor.close()


def asking(name: str, **params: Any) -> JSON:
    return {"function": name, "params": params}


async def call(executor: FunctionExecutor, world: World, name: str, **params: Any) -> Outcome:
    return await executor.execute(make_context(world), asking(name, **params))


def result(outcome: Outcome) -> Any:
    assert isinstance(outcome, Succeeded), outcome
    return outcome.result


def failure(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


async def noted(path: Path) -> list[int]:
    """The numbers that a function wrote into `path`."""
    await eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return [int(word) for word in path.read_text().split()]


# --- what all have in common


@task
async def add(a: int, b: int = 1) -> int:
    await asyncio.sleep(0)
    return a + b


@task
def multiply(a: int, b: int = 2) -> int:
    return a * b


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


@pytest.mark.parametrize("params", [None, [], {"function": 3}, {"function": "add", "params": [1]}])
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


# --- threads


async def test_threads_use_the_context_by_hopping_to_the_loop(make: Make, world: World) -> None:
    loop_thread = threading.get_ident()

    def works(ctx: SyncContext) -> Any:
        assert threading.get_ident() != loop_thread
        ctx.progress({"n": 1})
        ids = ctx.add_sub_task(multiply.spec({"a": 1}, name="sub"))
        return [
            ids,
            ctx.get_dependency("db"),
            ctx.step("s", lambda: 4),
            ctx.get_upstream_int("extract", "rows"),
        ]

    executor = make(works, services={"db": "connection"})
    assert result(await call(executor, world, "works")) == [5, "connection", 4, 3]
    assert (world.reports, world.steps.saved) == ([{"n": 1}], {"s": 4})


async def test_output_of_threads_is_captured_for_their_own_attempt(make: Make) -> None:
    def talks(word: str, ctx: SyncContext) -> None:
        print(word)
        logging.getLogger("mine").warning("%s logged", word)
        ctx.log("said")
        ctx.logger.info("more")

    executor = make(talks)
    recorders = [World(), World()]

    async def attempt(recorder: World, word: str) -> None:
        capture.current.set(recorder.log)
        await executor.execute(make_context(recorder), asking("talks", word=word))

    capture.install()
    try:
        await asyncio.gather(*(attempt(each, f"w{n}") for n, each in enumerate(recorders)))
    finally:
        capture.uninstall()
    for number, recorder in enumerate(recorders):
        assert recorder.logged("stdout") == f"w{number}\n"
        assert recorder.logged("log") == f"WARNING mine: w{number} logged\nsaid\nINFO step: more\n"


async def test_a_thread_that_takes_too_long_is_left_alone_and_counted(make: Make, world: World) -> None:
    begun, go_on = threading.Event(), threading.Event()
    seen: list[Any] = []

    def stuck(ctx: SyncContext) -> None:
        begun.set()
        go_on.wait()
        seen.append(ctx.cancelled)
        try:
            ctx.progress("late")
        except Exception as error:
            seen.append(type(error).__name__)

    executor = make(stuck, multiply, threads=2)
    handle = asyncio.create_task(call(executor, world, "stuck"))
    await eventually(begun.is_set)
    before = time.monotonic()
    handle.cancel()  # as the runner's timeout does: nobody has set `cancelled`
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert time.monotonic() - before < 5.0  # the grace period, which a timeout does not give
    assert executor.overdue == 1
    assert result(await call(executor, world, "multiply", a=4)) == 8  # by the other thread
    go_on.set()
    await eventually(lambda: executor.overdue == 0)
    assert (seen, world.reports) == ([True, "AttemptInterrupted"], [])


async def test_a_cancelled_thread_has_time_to_end_by_itself(make: Make, world: World) -> None:
    begun = threading.Event()

    def works(ctx: SyncContext) -> str:
        begun.set()
        ctx.done()
        return "saved"

    executor = make(works)
    context = make_context(world)
    handle = asyncio.create_task(executor.execute(context, asking("works")))
    await eventually(begun.is_set)
    context.cancelled.set()
    handle.cancel()
    assert result(await handle) == "saved"
    assert executor.overdue == 0


async def test_a_cancelled_thread_that_sleeps_durably_is_woken(make: Make, world: World) -> None:
    begun = threading.Event()

    def sleeps(ctx: SyncContext) -> None:
        begun.set()
        ctx.sleep(3600)

    context = make_context(world)
    handle = asyncio.create_task(make(sleeps).execute(context, asking("sleeps")))
    await eventually(lambda: "sleep-1" in world.steps._wake_at)
    context.cancelled.set()
    handle.cancel()
    assert failure(await handle).code == "interrupted"


async def test_a_cancelled_thread_that_goes_on_is_given_up(make: Make, world: World, tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def stuck() -> None:
        begun.set()
        go_on.wait()

    executor = make(stuck, settings=make_settings(tmp_path, kill_grace_seconds=0.01))
    context = make_context(world)
    handle = asyncio.create_task(executor.execute(context, asking("stuck")))
    await eventually(begun.is_set)
    context.cancelled.set()
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert executor.overdue == 1
    go_on.set()
    await eventually(lambda: executor.overdue == 0)


async def test_calls_that_wait_for_a_thread_and_are_cancelled_never_begin(make: Make, world: World) -> None:
    begun, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def blocks(n: int) -> None:
        calls.append(n)
        begun.set()
        go_on.wait()

    executor = make(blocks, threads=1)
    first = asyncio.create_task(call(executor, world, "blocks", n=1))
    await eventually(begun.is_set)
    second = asyncio.create_task(call(executor, world, "blocks", n=2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert executor.overdue == 0
    go_on.set()
    result(await first)
    assert calls == [1]


def test_as_many_threads_work_at_once_as_there_may_be() -> None:
    threads = Threads(3)
    meet = threading.Barrier(3, timeout=20)
    for future in [threads.start(meet.wait) for _ in range(3)]:
        future.result(timeout=20)
    names = {threads.start(lambda: threading.current_thread().name).result(timeout=20) for _ in range(20)}
    assert names <= {"function-1", "function-2", "function-3"}
    threads.close()


def test_work_that_is_given_up_before_it_begins_is_left_out() -> None:
    threads = Threads(1)
    go_on = threading.Event()
    first, second = threads.start(go_on.wait), threads.start(go_on.wait)
    threads.give_up(second)
    assert second.cancelled() and threads.overdue == 0
    go_on.set()
    assert first.result(timeout=20) is True
    threads.close()


def test_threads_that_are_closed_do_what_is_waiting_and_end() -> None:
    threads = Threads(1)
    go_on = threading.Event()
    workers: list[threading.Thread] = []

    def work() -> None:
        workers.append(threading.current_thread())
        go_on.wait()

    futures = [threads.start(work), threads.start(work)]
    threads.close()
    go_on.set()
    for future in futures:
        future.result(timeout=20)
    workers[0].join(timeout=20)
    assert not workers[0].is_alive()


def test_a_thread_that_never_ends_does_not_keep_the_program_from_ending() -> None:
    script = (
        "import threading; from engine.executors.threads import Threads; begun = threading.Event()\n"
        "Threads(1).start(lambda: (begun.set(), threading.Event().wait())); begun.wait()"
    )
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 0


# --- processes


@pytest.fixture
async def executor(make: Make) -> FunctionExecutor:
    return make(*PROCESS_TASKS, services={"limits": {"most": 8}, "lock": threading.Lock()})


async def test_a_process_is_used_again_and_sees_none_of_our_settings(
    executor: FunctionExecutor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("OTHER", "kept")
    context = make_context(world)
    first = result(await executor.execute(context, asking("where")))
    assert first["environment"] == {"OTHER": "kept", **context.environment}
    second = result(await call(executor, world, "where"))
    assert second["pid"] == first["pid"] != os.getpid()
    other_session = result(await executor.execute(make_context(world, session_id=4), asking("where")))
    assert other_session["pid"] != first["pid"]


async def test_output_of_a_process_goes_to_the_attempt_s_log(
    executor: FunctionExecutor, world: World
) -> None:
    result(await call(executor, world, "talk"))
    assert world.logged("stdout") == "printed\nfrom C\nfrom a child\n"
    assert world.logged("stderr") == "complained\n"
    assert world.logged("log") == "WARNING mine: 3 rows\n"


async def test_output_is_taken_although_the_end_of_the_call_is_seen_first(
    executor: FunctionExecutor, world: World
) -> None:
    result(await call(executor, world, "square", n=1))
    [process] = executor._processes._idle
    for descriptor in process._output:
        asyncio.get_running_loop().remove_reader(descriptor)
    result(await call(executor, world, "talk"))
    assert world.logged("stdout") == "printed\nfrom C\nfrom a child\n"


async def test_output_of_a_process_is_cut_at_the_limit(make: Make, world: World, tmp_path: Path) -> None:
    limits = make_settings(tmp_path).limits.__class__(output_bytes=10)
    executor = make(functions.talk, settings=make_settings(tmp_path, limits=limits))
    result(await call(executor, world, "talk"))
    assert world.logged("stdout").startswith("printed\nfr\n[... truncated, ")


async def test_a_process_uses_the_context_through_its_worker(
    executor: FunctionExecutor, world: World
) -> None:
    outcome = await executor.execute(make_context(world, attempt=1), asking("ask", any="x"))
    assert result(outcome) == {
        "ids": [5],
        "upstream": 3,
        "service": 8,
        "again": True,
        "has": [True, False],
        "step": 42,
        "params": {"any": "x"},
        "thread": True,
    }
    assert world.reports == [{"at": 1}]
    assert [spec.params for spec in world.spawned] == [asking("square", n=2)]
    assert world.logged("log") == "asked\nINFO step: and logged\n"


async def test_what_a_port_raises_is_raised_in_the_process(executor: FunctionExecutor, world: World) -> None:
    unknown = failure(await call(executor, world, "use", key="mail"))
    assert unknown.code == "not_found"
    unpicklable = failure(await call(executor, world, "use", key="lock"))
    assert unpicklable.code == "config_error"
    assert "service 'lock' cannot be sent to a process" in unpicklable.message


async def test_an_error_that_cannot_travel_is_told_in_words(
    executor: FunctionExecutor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spawn(tasks: Any) -> list[int]:
        raise UnknownKind("gone", ["noop"])  # made of two arguments, and pickled with one

    monkeypatch.setattr(world, "spawn", spawn)
    failed = failure(await call(executor, world, "ask"))
    assert "UnknownKind: unknown task type: gone (available: noop)" in failed.message


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("raise", "external_failure", "ValueError: not that"),
        ("permanent", "permanent_failure", "never"),
        ("later", "retry_after", "try again in 30 s"),
        ("exit", "external_failure", "SystemExit: 3"),
    ],
)
async def test_exceptions_in_a_process_are_failures(
    executor: FunctionExecutor, world: World, how: str, code: str, message: str
) -> None:
    failed = failure(await call(executor, world, "fail", how=how))
    assert (failed.code, failed.message) == (code, message)
    assert failed.is_permanent == (how == "permanent")
    assert "in fail" in world.logged("log") and "perform" not in world.logged("log")


@pytest.mark.parametrize(("how", "ended"), [("kill", "signal: killed"), ("leave", "exit status 7")])
async def test_a_process_that_dies_fails_its_own_attempt_only(
    executor: FunctionExecutor, world: World, tmp_path: Path, how: str, ended: str
) -> None:
    go = tmp_path / "go"
    waiting = asyncio.create_task(
        call(executor, world, "wait_for_file", path=str(go), me=str(tmp_path / "me"))
    )
    [pid] = await noted(tmp_path / "me")
    failed = failure(await call(executor, world, "fail", how=how))
    assert (failed.code, failed.message) == (
        "process_ended",
        f'the process of function "fail" ended: {ended}',
    )
    assert failed.retryable and not failed.is_permanent
    if how == "kill":
        assert world.logged("stdout") == "last words\n"
    go.touch()
    assert result(await waiting) == pid
    assert result(await call(executor, world, "square", n=3)) == 9


async def test_an_idle_process_that_was_killed_is_replaced(executor: FunctionExecutor, world: World) -> None:
    pid = result(await call(executor, world, "where"))["pid"]
    os.kill(pid, 9)
    assert result(await call(executor, world, "where"))["pid"] != pid  # noticed before or after it was sent


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_process_that_is_stopped_is_killed_with_what_it_started(
    executor: FunctionExecutor, world: World, tmp_path: Path, is_cancelled: bool
) -> None:
    context = make_context(world)
    handle = asyncio.create_task(executor.execute(context, asking("hang", note=str(tmp_path / "note"))))
    pids = await noted(tmp_path / "note")
    if is_cancelled:
        context.cancelled.set()
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle
    await eventually(lambda: not any(map(is_alive, pids)))  # the killed take a moment to die
    assert result(await call(executor, world, "square", n=3)) == 9


async def test_a_cancelled_process_has_time_to_end_by_itself(
    executor: FunctionExecutor, world: World, tmp_path: Path
) -> None:
    context = make_context(world)
    given = asking("hang_politely", note=str(tmp_path / "note"))
    handle = asyncio.create_task(executor.execute(context, given))
    [pid] = await noted(tmp_path / "note")
    context.cancelled.set()
    handle.cancel()
    assert result(await handle) == "cleaned up"
    assert is_alive(pid)


async def test_a_process_that_takes_too_long_is_killed_at_once(
    executor: FunctionExecutor, world: World, tmp_path: Path
) -> None:
    given = asking("hang_politely", note=str(tmp_path / "note"))
    handle = asyncio.create_task(executor.execute(make_context(world), given))
    [pid] = await noted(tmp_path / "note")
    handle.cancel()  # as the runner's timeout does
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert not is_alive(pid)


async def test_a_cancelled_process_that_sleeps_durably_is_woken(
    executor: FunctionExecutor, world: World, tmp_path: Path
) -> None:
    context = make_context(world)
    handle = asyncio.create_task(executor.execute(context, asking("doze", note=str(tmp_path / "note"))))
    await eventually(lambda: "sleep-1" in world.steps._wake_at)
    context.cancelled.set()
    handle.cancel()
    assert failure(await handle).code == "interrupted"


async def test_no_more_processes_work_at_once_than_there_may_be(
    make: Make, world: World, tmp_path: Path
) -> None:
    executor = make(*PROCESS_TASKS, processes=1)
    go = tmp_path / "go"
    first = asyncio.create_task(call(executor, world, "wait_for_file", path=str(go), me=str(tmp_path / "me")))
    [pid] = await noted(tmp_path / "me")
    second = asyncio.create_task(call(executor, world, "where"))
    await asyncio.sleep(0)
    assert not second.done()
    go.touch()
    assert result(await first) == result(await second)["pid"] == pid


async def test_closing_ends_idle_processes(make: Make, world: World) -> None:
    executor = make(*PROCESS_TASKS)
    pid = result(await call(executor, world, "where"))["pid"]
    await executor.close()
    assert not is_alive(pid)


async def test_a_process_ends_when_its_worker_is_gone(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from tests.executors import functions\n"
        "from tests.executors.factories import make_context\n"
        "from engine.executors.function import FunctionExecutor\n"
        "from engine.functions.ports import Ports\n"
        "from engine.functions.registry import FunctionRegistry\n"
        "executor = FunctionExecutor(FunctionRegistry([functions.hang]), ports=lambda context: Ports())\n"
        "asking = {'function': 'hang', 'params': {'note': sys.argv[1]}}\n"
        "asyncio.run(executor.execute(make_context(), asking))\n"
    )
    note = tmp_path / "note"
    worker = subprocess.Popen([sys.executable, "-c", script, str(note)], cwd=ROOT)
    pid, *left = await noted(note)
    worker.kill()
    worker.wait()
    await eventually(lambda: not is_alive(pid))
    for started in left:  # that is left to the worker's guardian
        os.kill(started, 9)


MAIN = """
import asyncio
import sys

from engine.errors import ConfigError
from engine.executors.function import FunctionExecutor
from engine.functions.decorator import task
from engine.functions.ports import Ports
from engine.functions.registry import FunctionRegistry
from tests.executors.factories import make_context

@task(run_in="process")
def who() -> list[str]:
    return [__name__, *sys.argv[1:]]

async def main() -> None:
    executor = FunctionExecutor(FunctionRegistry([who]), ports=lambda context: Ports())
    outcome = await executor.execute(make_context(), {"function": "who"})
    print(outcome)
    await executor.close()
"""


@pytest.mark.parametrize("as_module", [True, False])
def test_functions_of_the_main_module_run_in_processes(tmp_path: Path, as_module: bool) -> None:
    (tmp_path / "shop.py").write_text(f'{MAIN}\nif __name__ == "__main__":\n    asyncio.run(main())\n')
    how = ["-m", "shop"] if as_module else [str(tmp_path / "shop.py")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    ended = subprocess.run(
        [sys.executable, *how, "a"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "['__mp_main__', 'a']" in ended.stdout, ended


def test_a_program_that_would_start_once_more_is_told_how_to_guard_itself(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(f"{MAIN}\nasyncio.run(main())\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "shop.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "config_error" in ended.stdout and 'if __name__ == "__main__":' in ended.stdout, ended


async def test_functions_that_cannot_be_imported_say_so(
    make: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions.square.function.call, "__module__", "gone_tomorrow")
    failed = failure(await call(make(functions.square), world, "square", n=1))
    assert failed.message == "ModuleNotFoundError: No module named 'gone_tomorrow'"
    assert ConfigError.code != failed.code
