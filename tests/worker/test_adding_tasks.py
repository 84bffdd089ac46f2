"""What an attempt may add, and what one after it finds."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import GraphError, PermanentError
from engine.executors.base import TaskContext
from engine.model.graph import Graph, TaskSpec
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.operations import submits
from engine.store.database import Database
from tests.factories import spec
from tests.worker.bench import RETRY, ended, working

pytestmark = pytest.mark.anyio


async def test_a_retry_may_add_more(database: Database) -> None:
    async def grows(context: TaskContext, params: Any) -> Outcome:
        names = ["x", "y", "z"][: context.lease.attempt + 1]
        ids = await context.add_sub_tasks([TaskSpec(name, "fine") for name in names])
        return Failed("once") if context.lease.attempt == 1 else Succeeded({"ids": ids})

    async with working(database, grows):
        graph = Graph((TaskSpec("one", "grows", retry=RETRY),))
        [task_id] = (await submits.submit(database, graph)).task_ids.values()
        task = await ended(database, task_id)
    assert task.last is not None and isinstance(task.last.result, dict)
    told = task.last.result["subtask_results"]
    assert [entry["task_name"] for entry in told] == ["x", "y", "z"]
    assert [int(entry["task_id"]) for entry in told] == task.last.result["ids"]


async def test_what_is_added_later_cannot_depend_on_what_was_added_before(database: Database) -> None:
    async def chains(context: TaskContext, params: Any) -> Outcome:
        if context.lease.attempt == 1:
            await context.add_sub_tasks([TaskSpec("x", "fine")])
            return Failed("once")
        with pytest.raises(GraphError, match='"y" depends on "x", which an earlier call added'):
            await context.add_sub_tasks([spec("x", kind="fine"), spec("y", "x", kind="fine")])
        return Succeeded()

    async with working(database, chains):
        accepted = await submits.submit(database, Graph((TaskSpec("one", "chains", retry=RETRY),)))
        assert (await ended(database, accepted.task_ids["one"])).state == "succeeded"


async def test_a_name_is_added_once_by_an_attempt(database: Database) -> None:
    ids: list[list[int]] = []

    async def adds(context: TaskContext, params: Any) -> Outcome:
        with pytest.raises(GraphError, match="unknown task"):  # nothing is added, and no name taken
            await context.add_sub_tasks([spec("x", "ghost", kind="fine")])
        ids.append(await context.add_sub_tasks([TaskSpec("x", "fine")]))
        with pytest.raises(
            PermanentError, match=r'^duplicate task id: "x", which this attempt has added already'
        ):
            await context.add_sub_tasks([TaskSpec("y", "fine"), TaskSpec("x", "fine", {"other": 1})])
        ids[-1] += await context.add_sub_tasks([TaskSpec("y", "fine")])
        return Failed("once") if context.lease.attempt == 1 else Succeeded()

    async with working(database, adds):
        accepted = await submits.submit(database, Graph((TaskSpec("one", "adds", retry=RETRY),)))
        assert (await ended(database, accepted.task_ids["one"])).state == "succeeded"
    assert len(ids) == 2 and ids[0] == ids[1] and len(set(ids[0])) == 2


async def test_sub_tasks_take_values_and_no_references(database: Database) -> None:
    text = "${{ tasks.one.result.n }}"

    async def adds(context: TaskContext, params: Any) -> Outcome:
        for reference in (text, "${{ params.day }}"):
            with pytest.raises(
                PermanentError, match=r'task "x": params.a\[1\]: .* take values, not references'
            ):
                await context.add_sub_tasks([TaskSpec("x", "fine", {"a": [1, reference]})])
        ids = await context.add_sub_tasks([TaskSpec("x", "fine", {"a": f"it was {text}", "b": "${HOME}"})])
        return Succeeded(ids)

    async with working(database, adds):
        accepted = await submits.submit(database, Graph((TaskSpec("one", "adds"),)))
        assert (await ended(database, accepted.task_ids["one"])).state == "succeeded"
