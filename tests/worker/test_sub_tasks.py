"""Tasks that wait for what they added: counted by the database, on both, through retries and crashes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from engine.executors.base import TaskContext
from engine.model.graph import Graph, TaskSpec
from engine.model.json import MAX_DEPTH
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.sub_tasks import Returned
from engine.operations import runs, steps, submits, tasks, workers
from engine.store.database import Database
from tests.crash import invariants
from tests.factories import request, rows, session_async, spec
from tests.worker.bench import RETRY, ended, last, outcomes, until, working

pytestmark = pytest.mark.anyio


async def splits(context: TaskContext, params: Any) -> Outcome:
    """Adds the tasks named in `params`: each of the kind that its value says."""
    await context.add_sub_tasks([TaskSpec(name, kind, {"of": name}) for name, kind in params.items()])
    return Succeeded({"day": 1})


async def broken(context: TaskContext, params: Any) -> Outcome:
    return Failed("no", is_permanent=True)


async def test_what_waits_for_a_task_waits_for_its_sub_tasks(database: Database) -> None:
    go_on = asyncio.Event()

    async def slow(context: TaskContext, params: Any) -> Outcome:
        await go_on.wait()
        return Succeeded(params)

    graph = Graph(
        (
            spec("split", kind="splits", params={"x": "slow", "y": "fine"}),
            spec("after", "split", kind="fine"),
        )
    )
    async with working(database, splits, slow):
        accepted = await submits.submit(database, graph)
        split, after = accepted.task_ids["split"], accepted.task_ids["after"]
        await until(lambda: _is(database, split, "blocked"))
        assert (await tasks.get(database, after)).state == "blocked"
        fine = await tasks.get_by_name(database, accepted.run_id, "y")
        await ended(database, fine.id)
        assert (await tasks.get(database, split)).state == "blocked"
        go_on.set()
        task = await ended(database, split)
        assert (await ended(database, after)).state == "succeeded"
    assert await outcomes(database, split) == ["awaiting", "succeeded"]
    assert (task.failures, task.crashes) == (0, 0)
    assert task.last is not None and isinstance(task.last.result, dict)
    assert task.last.result["day"] == 1
    assert [entry["task_name"] for entry in task.last.result["subtask_results"]] == ["x", "y"]
    [started] = rows(
        database, f"SELECT max(number) AS number FROM event WHERE task_id = {after} AND kind = 'started'"
    )
    [over] = rows(
        database, f"SELECT max(number) AS number FROM event WHERE task_id = {split} AND kind = 'succeeded'"
    )
    assert started.number > over.number


async def _is(database: Database, task_id: int, state: str) -> bool:
    return (await tasks.get(database, task_id)).state == state


@pytest.mark.parametrize(("tolerance", "state"), [(0.0, "failed"), (0.5, "succeeded")])
async def test_so_many_may_fail(database: Database, tolerance: float, state: str) -> None:
    params = {"x": "broken", "y": "fine"}
    inputs = {"tolerance": tolerance, "at": []} if tolerance else None
    graph = Graph((TaskSpec("split", "splits", params, inputs=inputs), spec("after", "split", kind="fine")))
    async with working(database, splits, broken):
        accepted = await submits.submit(database, graph)
        assert (await ended(database, accepted.task_ids["split"])).state == state
        after = await ended(database, accepted.task_ids["after"])
        await until(lambda: _run_is(database, accepted.run_id, state))  # tolerated: not its failure either
    assert after.state == ("succeeded" if state == "succeeded" else "skipped")
    split = await last(database, accepted.task_ids["split"])
    if state == "failed":
        assert split.error is not None
        assert split.error["code"] == "sub_tasks_failed"
        assert split.error["message"] == "1 of 2 sub-tasks did not succeed: x"


async def test_those_that_end_before_it_does_are_not_waited_for(database: Database) -> None:
    async def patient(context: TaskContext, params: Any) -> Outcome:
        [added] = await context.add_sub_tasks([TaskSpec("part", "fine")])
        await ended(database, added)
        return Succeeded()

    async with working(database, patient):
        [task_id] = (await submits.submit(database, Graph((spec("one", kind="patient"),)))).task_ids.values()
        assert (await ended(database, task_id)).state == "succeeded"
    found = rows(database, f"SELECT kind FROM event WHERE task_id = {task_id} ORDER BY number")
    kinds = [row.kind for row in found]
    assert "awaiting" not in kinds  # it could go on at once
    assert await outcomes(database, task_id) == ["awaiting", "succeeded"]


async def test_a_retry_adds_nothing_twice_and_waits_all_the_same(database: Database) -> None:
    seen: list[int] = []

    async def flaky(context: TaskContext, params: Any) -> Outcome:
        seen.append(context.lease.attempt)
        if context.lease.attempt == 1:
            await context.add_sub_tasks([TaskSpec("part", "fine")])
            return Failed("once")
        return Succeeded("second")  # goes another way, without adding any

    async with working(database, flaky):
        graph = Graph((TaskSpec("one", "flaky", retry=RETRY),))
        [task_id] = (await submits.submit(database, graph)).task_ids.values()
        task = await ended(database, task_id)
    assert seen == [1, 2]
    assert task.last is not None and isinstance(task.last.result, dict)
    assert task.last.result["original_result"] == "second"
    assert task.last.result["subtask_count"] == 1


async def test_a_sub_task_may_have_sub_tasks(database: Database) -> None:
    async def nests(context: TaskContext, params: Any) -> Outcome:
        depth = params["depth"]
        if depth:
            await context.add_sub_tasks([TaskSpec(f"level-{depth}", "nests", {"depth": depth - 1})])
        return Succeeded({"depth": depth})

    async with working(database, nests):
        graph = Graph((TaskSpec("top", "nests", {"depth": 3}),))
        [task_id] = (await submits.submit(database, graph)).task_ids.values()
        task = await ended(database, task_id)
    result: Any = task.last and task.last.result
    for depth in (3, 2, 1):
        assert result["depth"] == depth
        [entry] = result["subtask_results"]
        result = entry["result"]
    assert result == {"depth": 0}


async def test_cancelling_the_run_ends_what_waits(database: Database) -> None:
    async def endless(context: TaskContext, params: Any) -> Outcome:
        await asyncio.Event().wait()
        return Succeeded()

    async with working(database, splits, endless):
        graph = Graph((TaskSpec("split", "splits", {"x": "endless"}),))
        accepted = await submits.submit(database, graph)
        split = accepted.task_ids["split"]
        await until(lambda: _is(database, split, "blocked"))
        await runs.cancel(database, accepted.run_id, reason="enough")
        assert (await ended(database, split)).state == "cancelled"
        await until(lambda: _run_is(database, accepted.run_id, "cancelled"))


async def _run_is(database: Database, run_id: int, state: str) -> bool:
    return (await runs.get(database, run_id)).state == state


async def test_a_paused_run_holds_a_task_whose_sub_tasks_have_ended(database: Database) -> None:
    go_on = asyncio.Event()

    async def slow(context: TaskContext, params: Any) -> Outcome:
        await go_on.wait()
        return Succeeded()

    async with working(database, splits, slow):
        graph = Graph((TaskSpec("split", "splits", {"x": "slow"}),))
        accepted = await submits.submit(database, graph)
        split = accepted.task_ids["split"]
        await until(lambda: _is(database, split, "blocked"))
        await until(lambda: _is_running(database, accepted.run_id, "x"))
        await runs.hold(database, accepted.run_id)
        go_on.set()
        await until(lambda: _is(database, split, "held"))
        await runs.resume(database, accepted.run_id)
        assert (await ended(database, split)).state == "succeeded"


async def _is_running(database: Database, run_id: int, name: str) -> bool:
    return (await tasks.get_by_name(database, run_id, name)).state == "running"


async def test_a_retried_run_keeps_what_the_task_returned(database: Database) -> None:
    calls: list[str] = []
    fails = True

    async def counted(context: TaskContext, params: Any) -> Outcome:
        calls.append("counted")
        await context.add_sub_tasks([TaskSpec("x", "sometimes"), TaskSpec("y", "fine")])
        return Succeeded({"kept": True})

    async def sometimes(context: TaskContext, params: Any) -> Outcome:
        return Failed("no", is_permanent=True) if fails else Succeeded()

    async with working(database, counted, sometimes):
        accepted = await submits.submit(database, Graph((TaskSpec("one", "counted"),)))
        task_id = accepted.task_ids["one"]
        assert (await ended(database, task_id)).state == "failed"
        await until(lambda: _run_is(database, accepted.run_id, "failed"))
        fails = False
        await runs.retry(database, accepted.run_id)
        await until(lambda: _run_is(database, accepted.run_id, "succeeded"))
        task = await tasks.get(database, task_id)
    assert calls == ["counted"]  # its part was done
    assert task.last is not None and isinstance(task.last.result, dict)
    assert (task.last.result["kept"], task.last.result["all_subtasks_succeeded"]) == (True, True)


async def test_one_that_dies_before_it_has_returned_does_its_part_again(database: Database) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    calls: list[int] = []

    async def dies(context: TaskContext, params: Any) -> Outcome:
        calls.append(context.lease.attempt)
        await context.add_sub_tasks([TaskSpec("part", "fine")])
        if context.lease.attempt == 1:
            begun.set()
            await go_on.wait()
        return Succeeded(context.lease.attempt)

    async with working(database, dies) as worker:
        graph = Graph((TaskSpec("one", "dies"),))
        [task_id] = (await submits.submit(database, graph)).task_ids.values()
        await begun.wait()
        await workers.end(database, worker.session_id, "worker lost")  # others take over what it holds
        task = await ended(database, task_id)
        go_on.set()
    assert calls == [1, 2]
    assert task.last is not None and isinstance(task.last.result, dict)
    assert (task.last.result["original_result"], task.last.result["subtask_count"]) == (2, 1)


async def test_one_that_dies_before_it_can_wait_goes_on_from_what_it_returned(database: Database) -> None:
    """Between keeping that and saying that it waits."""

    async def never(context: TaskContext, params: Any) -> Outcome:
        raise AssertionError("its part was done")

    accepted = await submits.submit(database, Graph((TaskSpec("one", "never"),)))
    one = await session_async(database)
    [lease] = await tasks.claim(database, request(one, kinds=("never",)), actor="w")
    await tasks.spawn(database, lease, [TaskSpec("part", "fine")], actor="w", awaited=True)
    await steps.save(database, lease, "returned", Returned("mine").to_json())
    await workers.end(database, one, "worker lost")
    async with working(database, never):
        task = await ended(database, accepted.task_ids["one"])
    assert task.last is not None and isinstance(task.last.result, dict)
    assert (task.last.result["original_result"], task.last.result["subtask_count"]) == ("mine", 1)


async def test_many_that_fail_and_wait_side_by_side_all_end(database: Database) -> None:
    """Templates are made again while their sub-tasks run, which end in any order, on three workers."""

    async def template(context: TaskContext, params: Any) -> Outcome:
        names = [f"{context.lease.name} {number}" for number in range(4)]
        await context.add_sub_tasks([TaskSpec(name, "part", retry=RETRY) for name in names])
        return Failed("once") if context.lease.attempt == 1 else Succeeded({"names": names})

    async def part(context: TaskContext, params: Any) -> Outcome:
        number = int(context.lease.name[-1])
        return Failed("once") if number == context.lease.attempt == 1 else Succeeded(number)

    specs = [TaskSpec(f"t{number}", "template", retry=RETRY) for number in range(12)]
    below = [spec(f"after {each.name}", each.name, kind="fine") for each in specs]
    async with (
        working(database, template, part),
        working(database, template, part),
        working(database, template, part),
    ):
        accepted = await submits.submit(database, Graph((*specs, *below)))
        await until(lambda: _run_is(database, accepted.run_id, "succeeded"))
        found = [await tasks.get(database, accepted.task_ids[each.name]) for each in specs]
    for task in found:
        assert task.last is not None and isinstance(task.last.result, dict)
        assert [each["result"] for each in task.last.result["subtask_results"]] == [0, 1, 2, 3]
    invariants.check(database, "when all have ended")


async def test_a_failure_counts_again_when_it_is_not_tolerated_any_more(database: Database) -> None:
    """What sub-tasks come to is counted with each change, back and forth."""
    fails = True

    async def sometimes(context: TaskContext, params: Any) -> Outcome:
        return Failed("no", is_permanent=True) if fails else Succeeded()

    async with working(database, splits, sometimes, broken):
        inputs = {"tolerance": 0.5, "at": []}
        graph = Graph(
            (
                TaskSpec("split", "splits", {"x": "sometimes", "y": "fine"}, inputs=inputs),
                spec("wrong", kind="broken"),
            )
        )
        accepted = await submits.submit(database, graph)
        await until(lambda: _run_is(database, accepted.run_id, "failed"))
        assert rows(database, "SELECT failed, awaited FROM run")[0] == (2, 1)
        fails = False
        await runs.retry(database, accepted.run_id)
        await until(lambda: _run_is(database, accepted.run_id, "failed"))
    assert rows(database, "SELECT failed, awaited FROM run")[0] == (1, 0)


async def test_a_result_as_deep_as_it_may_be_waits_all_the_same(database: Database) -> None:
    deep: Any = 1
    for _ in range(MAX_DEPTH):
        deep = [deep]

    async def parent(context: TaskContext, params: Any) -> Outcome:
        await context.add_sub_tasks([TaskSpec("part", "part")])
        return Succeeded({"own": deep[0]})

    async def part(context: TaskContext, params: Any) -> Outcome:
        return Succeeded(deep)

    async with working(database, parent, part):
        accepted = await submits.submit(database, Graph((TaskSpec("one", "parent"),)))
        task = await ended(database, accepted.task_ids["one"])
    assert await outcomes(database, task.id) == ["awaiting", "succeeded"]
    assert task.last is not None and isinstance(task.last.result, dict)
    assert (task.last.result["own"], task.last.result["subtask_results_left_out"]) == (deep[0], 1)


async def test_the_sum_has_no_more_than_a_result_may_have(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.model.sub_tasks.MOST_BYTES", 2_000)
    monkeypatch.setattr("engine.store.upstream.MOST_BYTES", 4_000)
    names = [f"part-{number:02}" for number in range(40)]

    async def parent(context: TaskContext, params: Any) -> Outcome:
        await context.add_sub_tasks([TaskSpec(name, "part") for name in names])
        return Succeeded()

    async def part(context: TaskContext, params: Any) -> Outcome:
        return Succeeded("x" * 500)

    async with working(database, parent, part):
        accepted = await submits.submit(database, Graph((TaskSpec("one", "parent"),)))
        task = await ended(database, accepted.task_ids["one"])
    assert task.last is not None and isinstance(task.last.result, dict)
    told = task.last.result
    assert (told["subtask_count"], told["all_subtasks_succeeded"]) == (40, True)
    assert [entry["task_name"] for entry in told["subtask_results"]] == names[: len(told["subtask_results"])]
    assert 3 < len(told["subtask_results"]) < 40
    assert told["subtask_results_left_out"] == 40 - sum("result" in each for each in told["subtask_results"])
