"""Workflows that take days, run to their end on a clock of the test's own."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import engine
from engine import Callback, Context, SyncContext, UndoFunction, Workflow, WorkflowTask, task, workflow
from engine.errors import Conflict, NotFound, WorkflowError
from engine.model.schedules import CatchUp, Overlap, ScheduleSpec
from engine.testing import Harness, Stalled, TaskFailed, run_workflow

pytestmark = pytest.mark.anyio

HOUR_MS = 3_600_000


@task
async def settle(ctx: Context) -> str:
    await ctx.sleep(timedelta(days=3))
    return "settled"


@task
def settle_in_a_thread(ctx: SyncContext) -> str:
    ctx.sleep(timedelta(days=3))
    return "settled"


@task(retries=2, retry_delay=timedelta(hours=1))
async def third_time(ctx: Context) -> int:
    ctx.log(f"attempt {ctx.attempt}")
    if ctx.attempt < 3:
        raise ConnectionError("nobody there")
    return ctx.attempt


@task
async def approval(ctx: Context) -> Any:
    try:
        return await ctx.wait_for_signal("approved", timeout=timedelta(days=1))
    except TimeoutError:
        return "nobody cared"


@task
async def waits(ctx: Context) -> Any:
    return await ctx.wait_for_signal("approved")


@task
async def works(ctx: Context) -> str:
    """In real time."""
    await asyncio.sleep(0.05)
    return "worked"


@task
def broken(number: int) -> float:
    return 1 / (number - number)


@task
def undo(**_: Any) -> None:
    print("undone")


@task
def told(**given: Any) -> None: ...


def took(ended: engine.testing.Ended) -> timedelta:
    assert ended.run.finished_at is not None
    return ended.run.finished_at - ended.run.created_at


def about(took: timedelta, expected: timedelta) -> bool:
    return expected <= took < expected + timedelta(seconds=1)


@pytest.mark.parametrize("sleeper", [settle, settle_in_a_thread], ids=["async", "thread"])
async def test_days_pass_in_no_time(sleeper: Any) -> None:
    @workflow
    def slow() -> None:
        third_time()
        sleeper.options(after=["third_time"])()

    began = time.monotonic()
    ended = await run_workflow(slow, functions=[third_time, sleeper], timeout=20)
    assert ended.check().result("third_time") == 3
    assert ended.result(sleeper.name) == "settled"
    assert about(took(ended), timedelta(days=3, hours=2))
    assert [attempt.outcome for attempt in ended.attempts("third_time")] == ["failed", "failed", "succeeded"]
    assert [line for line in ended.logs("third_time") if line.startswith("attempt")] == [
        f"attempt {number}" for number in (1, 2, 3)
    ]
    assert ended.kinds("third_time") == ["started", "retried", "started", "retried", "started", "succeeded"]
    assert time.monotonic() - began < 20


async def test_the_kind_sleep_is_on_the_clock_as_well() -> None:
    ended = await run_workflow(
        engine.graph([{"name": "nap", "kind": "sleep", "params": {"duration_ms": 600_000}}])
    )
    assert ended.result("nap") == {"slept_ms": 600_000}
    assert about(took(ended), timedelta(minutes=10))


async def test_time_stands_still_while_a_task_works() -> None:
    both = Workflow(
        "both",
        tasks=[
            WorkflowTask("settle", function="settle"),
            *(
                WorkflowTask(f"works-{n}", function="works", depends_on=[f"works-{n - 1}"] if n else [])
                for n in range(5)
            ),
        ],
    )
    ended = await run_workflow(both, functions=[settle, works])
    last = ended.check().tasks["works-4"].last
    assert last is not None and last.finished_at is not None
    assert last.finished_at - ended.run.created_at < timedelta(seconds=1)
    assert about(took(ended), timedelta(days=3))


async def test_tasks_that_wait_for_a_slot_keep_nothing_from_going_on() -> None:
    one_by_one = Workflow(
        "one-by-one",
        max_concurrent_task=1,
        tasks=[WorkflowTask(f"settle-{n}", function="settle") for n in range(3)],
    )
    assert about(took(await run_workflow(one_by_one, functions=[settle])), timedelta(days=9))


async def test_a_full_worker_goes_on_when_its_sleepers_wake() -> None:
    many = Workflow("many", tasks=[WorkflowTask(f"settle-{n}", function="settle") for n in range(5)])
    options = engine.WorkerOptions(concurrency=2, grace_seconds=0.0)
    async with Harness(functions=[settle], options=options) as harness:
        assert about(took(await harness.run(many)), timedelta(days=9))


# --- signals


async def test_signals_are_there_when_somebody_waits() -> None:
    flow = Workflow("flow", tasks=[WorkflowTask("approval", function="approval")])
    ended = await run_workflow(flow, functions=[approval], signals={"approved": {"by": "ann"}})
    assert ended.result("approval") == {"by": "ann"}
    assert took(ended) < timedelta(seconds=1)


async def test_a_signal_that_does_not_come_times_out_by_the_clock() -> None:
    flow = Workflow("flow", tasks=[WorkflowTask("approval", function="approval")])
    ended = await run_workflow(flow, functions=[approval])
    assert ended.result("approval") == "nobody cared"
    assert about(took(ended), timedelta(days=1))


async def test_a_signal_in_the_middle_ends_the_wait() -> None:
    flow = Workflow("flow", tasks=[WorkflowTask("approval", function="approval")])
    async with Harness(functions=[approval]) as harness:
        run_id = (await harness.execute(flow)).run_id
        await harness.advance(hours=5)
        await harness.signal(run_id, "approved", "late")
        ended = await harness.ended(run_id)
    assert ended.result("approval") == "late"
    assert about(took(ended), timedelta(hours=5))


# --- what cannot end


async def test_a_wait_without_an_end_is_told_at_once() -> None:
    flow = Workflow("flow", tasks=[WorkflowTask("waits", function="waits")])
    with pytest.raises(Stalled, match=r"task 'waits' is running and waits for a signal"):
        await run_workflow(flow, functions=[waits])


async def test_until_ends_what_goes_on_for_ever() -> None:
    flow = Workflow("flow", tasks=[WorkflowTask("waits", function="waits")])
    ended = await run_workflow(flow, functions=[waits], until=timedelta(days=10))
    assert (ended.state, ended.states) == ("running", {"waits": "running"})


async def test_a_paused_run_stands_still_until_it_is_resumed() -> None:
    flow = Workflow(
        "flow",
        tasks=[
            WorkflowTask("settle", function="settle"),
            WorkflowTask("works", function="works", depends_on=["settle"]),
        ],
    )
    async with Harness(functions=[settle, works]) as harness:
        run_id = (await harness.execute(flow)).run_id
        await harness.advance(days=1)
        await harness.pause(run_id)
        with pytest.raises(Stalled, match=rf"run {run_id} is paused; task 'works' is held"):
            await harness.wait(run_id)
        await harness.resume(run_id)
        ended = await harness.ended(run_id)
    assert ended.check().kinds("works")[-2:] == ["started", "succeeded"]


async def test_what_really_hangs_is_given_up_in_real_time() -> None:
    @task
    async def hangs() -> None:
        await asyncio.Event().wait()

    flow = Workflow("flow", tasks=[WorkflowTask("hangs", function="hangs")])
    with pytest.raises(TimeoutError, match=r"0\.3 seconds of real time.*task 'hangs' is running"):
        await run_workflow(flow, functions=[hangs], timeout=0.3)


# --- failures


async def test_a_failure_is_shown_with_its_traceback() -> None:
    @workflow
    def flow() -> None:
        works.options(after=[broken(number=3)])()

    ended = await run_workflow(flow, functions=[broken, works])
    assert ended.states == {"broken": "failed", "works": "skipped"}
    for look in (ended.check, lambda: ended.result("broken")):
        with pytest.raises(TaskFailed) as raised:
            look()
        text = str(raised.value)
        assert "task 'broken' failed at attempt 1: ZeroDivisionError" in text
        assert "return 1 / (number - number)" in text
    with pytest.raises(NotFound, match="'works': it never ran"):
        ended.result("works")


async def test_a_function_that_is_missing_is_told_before_anything_runs() -> None:
    flow = Workflow("flow", tasks=[WorkflowTask("settle", function="settle")])
    with pytest.raises((WorkflowError, engine.UnknownFunction, engine.InvalidInput), match="settle"):
        await run_workflow(flow, functions=[works])


async def test_a_saga_is_undone_before_it_is_looked_at() -> None:
    flow = Workflow(
        "flow",
        tasks=[
            WorkflowTask("works", function="works", compensation=UndoFunction("undo")),
            WorkflowTask("broken", function="broken", params={"number": 1}, depends_on=["works"]),
        ],
    )
    ended = await run_workflow(flow, functions=[works, broken, undo])
    assert ended.state == "failed"
    assert ended.undo is not None and ended.undo.state == "succeeded"
    assert ended.undo.logs() == ["undone"]


async def test_callbacks_have_been_called() -> None:
    flow = Workflow(
        "flow", tasks=[WorkflowTask("works", function="works", callbacks=[Callback("success", "told")])]
    )
    async with Harness(functions=[works, told]) as harness:
        ended = await harness.run(flow)
        assert ended.check()
        runs = await harness.list_runs()
    assert [run.state for run in runs if run.labels.get("callback_of")] == ["succeeded"]


# --- schedules


async def test_a_schedule_fires_at_each_of_its_times() -> None:
    async with Harness(functions=[works], start=datetime(2026, 3, 1, 7, 30, tzinfo=UTC)) as harness:
        await harness.save(
            Workflow("hourly", cron="0 0 * * * *", tasks=[WorkflowTask("works", function="works")])
        )
        assert await harness.advance(hours=3) >= datetime(2026, 3, 1, 10, 30, tzinfo=UTC)
        started = [run.run.created_at for run in await harness.history("hourly", oldest_first=True)]
        assert [moment.replace(second=0, microsecond=0).hour for moment in started] == [8, 9, 10]
        assert all(moment.minute == 0 and moment.second == 0 for moment in started)
        assert await harness.fire("hourly") == datetime(2026, 3, 1, 11, tzinfo=UTC)
        assert {str(run.run.state) for run in await harness.history("hourly")} == {"succeeded"}
        await harness.pause_schedule("hourly")
        with pytest.raises(Conflict, match="paused"):
            await harness.fire("hourly")


async def test_times_that_pass_at_once_are_caught_up_as_the_schedule_says() -> None:
    async with Harness() as harness:
        await harness.save(Workflow("report", tasks=[WorkflowTask("a", kind="noop")]))
        for catch_up in CatchUp:
            await harness.schedule("report", ScheduleSpec(catch_up, "0 30 * * * *", catch_up=catch_up))
        await harness.jump(hours=5)  # as if the machine had slept
        await harness.advance()
        assert len(await harness.history("report")) == 0 + 1 + 5


async def test_a_time_that_waits_for_the_run_before_it_fires_when_that_has_ended() -> None:
    async with Harness(functions=[settle]) as harness:
        await harness.save(Workflow("slow", tasks=[WorkflowTask("settle", function="settle")]))
        await harness.schedule("slow", ScheduleSpec("daily", "0 0 0 * * *", overlap=Overlap.QUEUE_ONE))
        await harness.advance(days=1, hours=12)
        assert len(await harness.history("slow")) == 1
        await harness.advance(days=3)
        assert [str(run.run.state) for run in await harness.history("slow")] == ["running", "succeeded"]


async def test_what_happens_at_the_same_moment_is_told_apart() -> None:
    async with Harness() as harness:
        await harness.save(Workflow("report", tasks=[WorkflowTask("a", kind="noop")]))
        await harness.schedule("report", ScheduleSpec("hourly", "0 0 * * * *"))
        await harness.fire("hourly")
        await asyncio.gather(*(harness.trigger_schedule("hourly") for _ in range(3)))
        await harness.advance()
        assert len(await harness.history("report")) == 4
