"""Functions in threads, which cannot be killed."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.executors.threads import Threads
from engine.functions.context import SyncContext
from engine.worker import capture
from tests.executors.calling import ROOT, Make, asking, call, failure, multiply, result
from tests.executors.factories import eventually, make_context, make_settings
from tests.executors.worlds import World

pytestmark = pytest.mark.anyio


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


async def test_a_thread_that_is_cancelled_while_it_begins_to_sleep_is_woken(
    make: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule, contexts = asyncio.run_coroutine_threadsafe, []

    def late(*arguments: Any) -> Any:
        call = schedule(*arguments)
        while not contexts[0].cancelled:  # the loop is at it, and we are not back yet
            time.sleep(0.001)
        return call

    def sleeps(ctx: SyncContext) -> None:
        contexts.append(ctx)
        ctx.sleep(3600)

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", late)
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
