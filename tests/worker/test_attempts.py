"""One attempt, whatever its executor does: it ends with one outcome, and the worker goes on."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any

import pytest

from engine.errors import StoreUnavailable
from engine.executors.base import TaskContext
from engine.model.graph import TaskSpec
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.operations import runs, tasks
from engine.store.database import Database
from engine.worker import service
from tests.worker.bench import RETRY, ended, last, outcomes, submit, submit_one, until, working

pytestmark = pytest.mark.anyio


class Odd(BaseException):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


async def test_result_and_attempt_are_recorded(database: Database) -> None:
    async with working(database):
        task = await ended(database, await submit_one(database, "fine", {"rows": [1, "two", None]}))
    assert task.state == "succeeded" and task.last is not None
    assert task.last.result == {"rows": [1, "two", None]}
    assert await outcomes(database, task.id) == ["succeeded"]


async def test_failed_attempts_are_repeated_until_one_succeeds(database: Database) -> None:
    async def third_time(context: TaskContext, params: Any) -> Outcome:
        if context.lease.attempt < 3:
            raise ValueError(f"try {context.lease.attempt}")
        return Succeeded(context.lease.idempotency_key)

    async with working(database, third_time):
        task = await ended(database, await submit_one(database, "third_time", retry=RETRY))
    assert await outcomes(database, task.id) == ["failed", "failed", "succeeded"]
    [first, *_] = await tasks.attempts(database, task.id)
    assert first.error is not None and first.error["message"] == "ValueError: try 1"
    lines = await runs.logs(database, task.run_id)
    assert any("in third_time" in line.text for line in lines)  # where it was raised


async def test_retry_budget_ends_with_failed(database: Database) -> None:
    async def never(context: TaskContext, params: Any) -> Outcome:
        return Failed("no")

    async with working(database, never):
        task = await ended(database, await submit_one(database, "never", retry=RETRY))
    assert task.state == "failed"
    assert await outcomes(database, task.id) == ["failed"] * 3


async def test_attempt_that_takes_too_long_is_timed_out(database: Database) -> None:
    async def slow(context: TaskContext, params: Any) -> Outcome:
        assert context.seconds_left is not None and context.seconds_left <= 0.1
        await asyncio.sleep(60)
        return Succeeded()

    async with working(database, slow):
        task = await ended(database, await submit_one(database, "slow", timeout_ms=100))
    assert task.last is not None and task.last.error is not None
    assert (task.state, task.last.error["code"]) == ("failed", "timeout")
    assert task.last.error["message"] == "not done after 0.1 s: context deadline exceeded"


async def test_durable_waits_take_nothing_of_the_time_that_a_task_has(database: Database) -> None:
    async def patient(context: TaskContext, params: Any) -> Outcome:
        steps = context.steps()
        await asyncio.gather(steps.sleep_until("a", 0.3), steps.sleep_until("b", 0.6))
        with pytest.raises(TimeoutError, match=r"no signal .go. came within"):
            await steps.next_signal("go", 0.3)
        left = context.seconds_left
        return Succeeded(left is not None and left > 0)

    async with working(database, patient):
        task = await ended(database, await submit_one(database, "patient", timeout_ms=500))
    assert (task.state, task.last and task.last.result) == ("succeeded", True)


@pytest.mark.parametrize("waits", [0, 1, 2])
async def test_after_durable_waits_the_time_goes_on(database: Database, waits: int) -> None:
    async def slow(context: TaskContext, params: Any) -> Outcome:
        steps = context.steps()
        await asyncio.gather(*(steps.sleep_until(f"w{n}", 0.1 * n) for n in range(waits)))
        await asyncio.sleep(60)
        return Succeeded()

    async with working(database, slow):
        task = await ended(database, await submit_one(database, "slow", timeout_ms=200))
    assert task.last is not None and task.last.error is not None
    assert task.last.error["message"] == "not done after 0.2 s: context deadline exceeded"


async def test_running_task_is_told_to_stop_when_it_is_cancelled(database: Database) -> None:
    begun, told = asyncio.Event(), asyncio.Event()

    async def patient(context: TaskContext, params: Any) -> Outcome:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            assert context.cancelled.is_set()
            told.set()
        return Succeeded()

    async with working(database, patient):
        task_id = await submit_one(database, "patient")
        await begun.wait()
        await tasks.cancel(database, task_id, reason="wrong day")
        task = await ended(database, task_id)
    assert told.is_set()
    assert (task.state, task.reason) == ("cancelled", "wrong day")
    assert task.last is not None and task.last.error is not None
    assert (task.last.error["code"], task.last.error["message"]) == ("cancelled", "wrong day")


@pytest.mark.parametrize(
    ("raised", "text"),
    [
        (SystemExit(2), "SystemExit: 2"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (Odd("odd"), f"{__name__}.Odd: odd"),
        (asyncio.CancelledError(), "the executor was cancelled, and not by the engine"),
        (TimeoutError("its own"), "TimeoutError: its own"),
        (BaseExceptionGroup("several", [Odd("one")]), "BaseExceptionGroup: several (1 sub-exception)"),
        (Unprintable(), f"{__name__}.Unprintable: <exception str() failed>"),
        (ValueError("nul \x00 in it"), "ValueError: nul \\x00 in it"),
        (FileNotFoundError(os.fsdecode(b"lost \xff")), "FileNotFoundError: lost \\udcff"),
        (RecursionError(), "RecursionError"),
        (MemoryError(), "MemoryError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
async def test_whatever_an_executor_raises_fails_this_attempt_only(
    database: Database, raised: BaseException, text: str
) -> None:
    async def bad(context: TaskContext, params: Any) -> Outcome:
        raise raised

    async with working(database, bad):
        task = await ended(database, await submit_one(database, "bad", retry=RETRY))
        after = await ended(database, await submit_one(database, "fine"))
    assert after.state == "succeeded"
    assert await outcomes(database, task.id) == ["failed"] * 3
    assert task.last is not None and task.last.error is not None and task.last.error["message"] == text


@pytest.mark.parametrize("garbage", [None, {"ok": True}, Succeeded], ids=["None", "dict", "class"])
async def test_executor_that_returns_no_outcome_fails(database: Database, garbage: Any) -> None:
    async def wrong(context: TaskContext, params: Any) -> Any:
        return garbage

    async with working(database, wrong):
        task = await ended(database, await submit_one(database, "wrong"))
    assert task.last is not None and task.last.error is not None
    assert "instead of an outcome" in task.last.error["message"]


async def test_results_that_cannot_be_stored_fail_alone(database: Database) -> None:
    bad: list[Any] = [{1, 2}, float("nan"), "\ud800", "\x00", object(), 2**70, b"bytes"]

    async def odd(context: TaskContext, params: Any) -> Outcome:
        return Succeeded(bad[params])

    specs = [TaskSpec(f"bad{n}", "odd", n, retry=RETRY) for n in range(len(bad))]
    good = [TaskSpec(f"good{n}", "fine", n) for n in range(20)]
    async with working(database, odd, concurrency=40):
        ids = await submit(database, *specs, *good)
        ends = [await ended(database, task_id) for task_id in ids]
    assert [task.state for task in ends[len(bad) :]] == ["succeeded"] * 20
    for task in ends[: len(bad)]:
        assert task.last is not None and task.last.error is not None
        assert task.last.error["code"] == "result_unstorable"
        assert await outcomes(database, task.id) == ["failed"]


async def test_kinds_that_a_worker_does_not_know_are_left_to_others(database: Database) -> None:
    async with working(database):
        strange, fine = await submit(database, TaskSpec("a", "strange"), TaskSpec("b", "fine"))
        await ended(database, fine)
        assert (await tasks.get(database, strange)).state == "available"


async def test_tasks_added_by_a_task_are_not_doubled_by_its_retry(database: Database) -> None:
    async def parent(context: TaskContext, params: Any) -> Outcome:
        ids = await context.spawn([TaskSpec("child", "fine", 7), TaskSpec("other", "fine")])
        if context.lease.attempt == 1:
            raise RuntimeError("after adding them")
        return Succeeded(ids)

    async with working(database, parent):
        task = await ended(database, await submit_one(database, "parent", retry=RETRY))
        assert task.last is not None and isinstance(task.last.result, list)
        for child in task.last.result:
            assert (await ended(database, child)).state == "succeeded"
    run = await runs.get(database, task.run_id)
    assert (run.total, run.state) == (3, "succeeded")


async def test_progress_is_seen_while_the_task_runs(database: Database) -> None:
    seen = asyncio.Event()

    async def steps(context: TaskContext, params: Any) -> Outcome:
        await context.report({"done": 40})
        await seen.wait()
        return Succeeded()

    async with working(database, steps):
        task_id = await submit_one(database, "steps")

        async def progress() -> Any:
            return (await tasks.get(database, task_id)).progress

        assert await until(progress) == {"done": 40}
        seen.set()
        await ended(database, task_id)


async def test_database_that_is_away_does_not_fail_a_task_that_reports(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = tasks.report, []

    async def report(*args: Any) -> None:
        calls.append(args)
        if len(calls) < 3:
            raise StoreUnavailable("away")
        await real(*args)

    async def steps(context: TaskContext, params: Any) -> Outcome:
        await context.report(1)
        return Succeeded()

    monkeypatch.setattr(tasks, "report", report)
    async with working(database, steps):
        task = await ended(database, await submit_one(database, "steps"))
    assert (task.state, len(calls), await outcomes(database, task.id)) == ("succeeded", 3, ["succeeded"])


async def test_executor_that_ignores_cancellation_does_not_keep_the_worker_from_ending(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_STUCK_SECONDS", 0.3)
    begun, release = asyncio.Event(), asyncio.Event()

    async def deaf(context: TaskContext, params: Any) -> Outcome:
        begun.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return Succeeded()

    async with working(database, deaf) as worker:
        task_id = await submit_one(database, "deaf")
        await begun.wait()
        await worker.stop_now()
        await worker.drain(math.inf)  # it has signed off: nothing is left to wait for
    assert (await tasks.get(database, task_id)).state == "available"
    assert await outcomes(database, task_id) == ["released"]
    release.set()
    await until(lambda: worker.running == 0)
    assert (await last(database, task_id)).outcome == "released"
