"""Processes start when needed, are shared in order and replaced when they die, and end with their parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from engine.errors import EvaluatorUnavailable, ExpressionError
from engine.expressions import evaluator as module
from engine.expressions.evaluator import Evaluator
from tests.expressions.conftest import processes
from tests.expressions.test_hostile import ENDLESS, ENDLESS_PARAMS

pytestmark = pytest.mark.anyio

ENDLESS_CONTEXT = {"params": ENDLESS_PARAMS}


async def busy(process: psutil.Process) -> None:
    """Return when it has worked for a while."""
    before = process.cpu_times().user
    while process.cpu_times().user < before + 0.1:
        await asyncio.sleep(0.01)


async def new_process(than: psutil.Process | None = None) -> psutil.Process:
    while True:
        for process in processes():
            if process != than:
                return process
        await asyncio.sleep(0.01)


async def test_nothing_is_started_before_the_first_evaluation() -> None:
    async with Evaluator(processes=2) as evaluator:
        assert processes() == []
        await evaluator.evaluate("1", {})
        assert len(processes()) == 1
    assert processes() == []


async def test_200_concurrent_evaluations_get_their_own_answers() -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        texts = [f"params.x * {number}" for number in range(200)]
        results = await asyncio.gather(*(evaluator.evaluate(text, {"params": {"x": 2}}) for text in texts))
        assert results == [2 * number for number in range(200)]
        assert len(processes()) == 1


async def test_several_processes_share_the_work() -> None:
    async with Evaluator(timeout_seconds=10, processes=3) as evaluator:
        results = await asyncio.gather(*(evaluator.evaluate(str(number), {}) for number in range(100)))
        assert results == list(range(100))
        assert len(processes()) == 3


async def test_errors_of_some_do_not_touch_others() -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        texts = ["1", "1 / 0", "params.x", "2"] * 25
        results = await asyncio.gather(
            *(evaluator.evaluate(text, {"params": {}}) for text in texts), return_exceptions=True
        )
        assert [result for result in results if not isinstance(result, ExpressionError)] == [1, 2] * 25
        assert {str(result) for result in results if isinstance(result, ExpressionError)} == {
            "divide by zero",
            'Key not found in map : "x"',
        }


async def test_a_busy_caller_does_not_pass_those_who_wait() -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        order: list[str] = []

        async def call(name: str, times: int) -> None:
            for _ in range(times):
                await evaluator.evaluate("1", {})
                order.append(name)

        await asyncio.gather(call("busy", 50), call("a", 1), call("b", 1))
        assert order[:4] == ["busy", "a", "b", "busy"]


async def test_a_process_killed_between_evaluations_is_replaced() -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        await evaluator.evaluate("1", {})
        (first,) = processes()
        first.kill()
        assert await evaluator.evaluate("2", {}) == 2
        assert first not in processes()


async def test_an_evaluation_whose_process_is_killed_is_repeated() -> None:
    context = {"params": {"l": list(range(6_000))}}
    text = "params.l.all(a, params.l == params.l)"  # most of a second on a fast machine
    async with Evaluator(timeout_seconds=60) as evaluator:
        await evaluator.evaluate("1", {})
        (first,) = processes()
        handle = asyncio.create_task(evaluator.evaluate(text, context))
        await busy(first)
        first.kill()
        assert await handle is True
        assert first not in processes()


async def test_an_evaluation_whose_process_dies_twice_fails() -> None:
    async with Evaluator(timeout_seconds=60) as evaluator:
        handle = asyncio.create_task(evaluator.evaluate(ENDLESS, ENDLESS_CONTEXT))
        waiting = asyncio.create_task(evaluator.evaluate("1", {}))
        process = None
        for _ in range(2):
            process = await new_process(than=process)
            await busy(process)
            process.kill()
        with pytest.raises(ExpressionError) as raised:
            await handle
        assert (
            str(raised.value) == "its process died twice (killed); it may need more memory than it can have"
        )
        assert await waiting == 1


async def test_a_stopped_process_is_late() -> None:
    async with Evaluator(timeout_seconds=0.5) as evaluator:
        await evaluator.evaluate("1", {})
        (first,) = processes()
        first.suspend()
        with pytest.raises(ExpressionError, match=r"not done after 0\.5 s"):
            await evaluator.evaluate("1", {})
        assert not first.is_running()
        assert await evaluator.evaluate("1", {}) == 1


async def test_the_answer_to_a_cancelled_caller_goes_to_nobody() -> None:
    async with Evaluator(timeout_seconds=60) as evaluator:
        await evaluator.evaluate("1", {})
        (first,) = processes()
        handle = asyncio.create_task(evaluator.evaluate(ENDLESS, ENDLESS_CONTEXT))
        waiting = [asyncio.create_task(evaluator.evaluate(str(number), {})) for number in range(5)]
        await busy(first)
        handle.cancel()
        waiting[2].cancel()
        results = await asyncio.gather(handle, *waiting, return_exceptions=True)
        assert [result for result in results if isinstance(result, int)] == [0, 1, 3, 4]


async def test_after_the_close_nothing_is_started() -> None:
    evaluator = Evaluator(timeout_seconds=60)
    handle = asyncio.create_task(evaluator.evaluate(ENDLESS, ENDLESS_CONTEXT))
    waiting = asyncio.create_task(evaluator.evaluate("1", {}))
    await busy(await new_process())
    await evaluator.close()
    for ended in (handle, waiting):
        with pytest.raises(EvaluatorUnavailable, match="the evaluator is closed"):
            await ended
    assert processes() == []


async def test_a_close_while_one_is_started_leaves_none() -> None:
    evaluator = Evaluator()
    handle = asyncio.create_task(evaluator.evaluate("1", {}))
    while not processes():
        await asyncio.sleep(0)
    await evaluator.close()
    with pytest.raises(EvaluatorUnavailable):
        await handle
    assert processes() == []


async def test_a_caller_is_cancelled_while_one_is_started() -> None:
    async with Evaluator(timeout_seconds=10) as evaluator:
        handle = asyncio.create_task(evaluator.evaluate("1", {}))
        while not processes():
            await asyncio.sleep(0)
        handle.cancel()
        with pytest.raises(asyncio.CancelledError):
            await handle
        assert await evaluator.evaluate("2", {}) == 2
        assert len(processes()) == 1


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/nowhere/python", r"No such file or directory"),
        ("/bin/false", r"exit status \d+"),
    ],
)
async def test_a_process_that_does_not_start(
    program: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Evaluator() as evaluator:
        with monkeypatch.context() as patch:
            patch.setattr(module.sys, "executable", program)
            with pytest.raises(EvaluatorUnavailable, match=f"does not start: .*{reason}"):
                await evaluator.evaluate("1", {})
        assert await evaluator.evaluate("1", {}) == 1  # nothing is remembered


# --- the parent


def is_alive(process: psutil.Process) -> bool:
    """A zombie is not: its parent may be busy dying."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


PARENT = """
import asyncio, json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever starts us in the background ignores it
from engine.expressions.evaluator import Evaluator

async def main() -> None:
    evaluator = Evaluator(timeout_seconds=0.5)
    await evaluator.evaluate("1", {})
    print("ready", flush=True)
    text, context = json.loads(sys.stdin.readline())
    if text:
        asyncio.get_running_loop().call_later(0.1, __import__("time").sleep, 600)  # it will not kill it
        await evaluator.evaluate(text, context)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("text", ["", ENDLESS], ids=["idle", "evaluating"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_no_process_outlives_its_parent(text: str, number: int) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with parent:
        try:
            assert parent.stdin is not None and parent.stdout is not None
            assert parent.stdout.readline() == b"ready\n"
            (process,) = processes(parent.pid)
            parent.stdin.write(json.dumps([text, ENDLESS_CONTEXT]).encode() + b"\n")
            parent.stdin.flush()
            if text:
                await busy(process)
            os.kill(parent.pid, number)
            async with asyncio.timeout(30):
                while is_alive(process):
                    await asyncio.sleep(0.01)
        finally:
            parent.kill()
