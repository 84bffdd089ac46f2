"""What tasks of workflows get from a worker: inputs, conditions, limits, durable steps and signals."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from engine.definitions import from_yaml
from engine.errors import Conflict, NotFound
from engine.executors.base import TaskContext
from engine.model.graph import Limit
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.workflow_graph import graph_of
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import runs, steps, submits, tasks
from engine.store.database import Database
from tests.factories import rows, spec
from tests.worker.bench import RETRY, ended, outcomes, submit, submit_one, until, working

pytestmark = pytest.mark.anyio

FLOW = """
workflows:
  definitions:
    - workflow_id: flow
      params: {n: 3}
      tasks:
        - {task_id: load, kind: fine, params: {rows: "${n}"}}
        - task_id: taken
          kind: fine
          dependencies: [load]
          condition: tasks.load.result.rows > params.least
          params: {least: 2, text: "rows: ${{ tasks.load.result.rows }}"}
        - task_id: left
          kind: fine
          dependencies: [load]
          condition: tasks.load.result.rows > 5
        - task_id: below
          kind: fine
          dependencies: [left]
        - task_id: last
          kind: fine
          dependencies: [taken, left]
          rule: none_failed
          required_params: [text]
          result_mapping: {mapped: text}
"""


async def test_tasks_get_what_their_definition_says(database: Database) -> None:
    workflow = from_yaml(FLOW)
    graph = graph_of(workflow, workflow.effective_params({}))
    async with working(database):
        accepted = await submits.submit(database, graph)
        found = {name: await ended(database, task_id) for name, task_id in accepted.task_ids.items()}
    results = {name: task.last.result if task.last else None for name, task in found.items()}
    assert results == {
        "load": {"rows": 3},
        "taken": {"least": 2, "text": "rows: 3"},
        "left": None,
        "below": None,
        "last": {"mapped": "rows: 3"},
    }
    assert (found["left"].state, found["left"].reason) == (
        "skipped",
        "condition does not hold: tasks.load.result.rows > 5",
    )
    assert (found["below"].state, found["below"].reason) == ("skipped", "dependency left skipped")
    assert (await runs.get(database, accepted.run_id)).state == "succeeded"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("rows > params.least", "rows > params.none"), "condition_failed", "none"),
        (
            ("rows > params.least", "rows + 1"),
            "condition_failed",
            "a condition is true or false, this gave 4",
        ),
        (("result.rows }}", "result.nothing }}"), "invalid_params", "nothing"),
    ],
)
async def test_what_cannot_be_put_together_fails_for_good(
    database: Database, change: tuple[str, str], code: str, message: str
) -> None:
    workflow = from_yaml(FLOW.replace(*change))
    graph = graph_of(workflow, workflow.effective_params({}))
    async with working(database):
        accepted = await submits.submit(database, graph)
        task = await ended(database, accepted.task_ids["taken"])
    assert task.last is not None and task.last.error is not None
    assert (task.state, task.attempt, task.last.error["code"]) == ("failed", 1, code)
    assert message in task.last.error["message"]


@pytest.mark.parametrize(
    ("params", "condition", "state"),
    [
        ({"rows": "${{ tasks.load.result.rows }}"}, "params.rows == 3", "succeeded"),
        ({"rows": "${{ tasks.load.result.rows }}"}, "params.rows == 4", "skipped"),
        ({}, "params.mapped == 3", "succeeded"),
        ({"x": "${{ tasks.load.result.none }}"}, "has(tasks.load.result.none)", "skipped"),
        ({"x": "${{ tasks.load.result.none }}"}, "true", "failed"),
    ],
)
async def test_a_condition_reads_the_parameters_that_the_task_gets(
    database: Database, params: dict[str, Any], condition: str, state: str
) -> None:
    async def load(context: TaskContext, params: Any) -> Outcome:
        return Succeeded({"rows": 3})

    task = WorkflowTask(
        "next",
        kind="load",
        params=params,
        depends_on=["load"],
        condition=condition,
        result_mapping={"mapped": "rows"},
    )
    graph = graph_of(Workflow("w", tasks=[WorkflowTask("load", kind="load"), task]))
    async with working(database, load):
        accepted = await submits.submit(database, graph)
        assert (await ended(database, accepted.task_ids["next"])).state == state


# --- limits


async def test_a_worker_keeps_to_limits_and_gets_everything_done(database: Database) -> None:
    now, most = 0, 0

    async def counted(context: TaskContext, params: Any) -> Outcome:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return Succeeded()

    limits = (Limit("few", 2),)
    async with working(database, counted, concurrency=10, poll_seconds=60):
        ids = await submit(
            database, *(spec(f"t{number}", kind="counted", limits=limits) for number in range(30))
        )
        for task_id in ids:
            await ended(database, task_id)
    assert 0 < most <= 2


# --- durable steps


async def test_a_step_that_is_done_is_not_done_again(database: Database) -> None:
    done: list[str] = []

    async def steady(context: TaskContext, params: Any) -> Outcome:
        kept = context.steps()
        for name in ("one", "two"):
            if (saved := await kept.step_result(name)) is None:
                done.append(name)
                await kept.save_step(name, {"of": name})
            else:
                assert saved.result == {"of": name}
        return Failed("again") if context.lease.attempt == 1 else Succeeded()

    async with working(database, steady):
        task_id = await submit_one(database, "steady", retry=RETRY)
        assert (await ended(database, task_id)).state == "succeeded"
    assert done == ["one", "two"]


async def test_a_sleep_goes_on_where_it_was_interrupted(database: Database) -> None:
    """An hour that passed is not slept again, whichever attempt began it."""
    began: list[int] = []

    async def sleepy(context: TaskContext, params: Any) -> Outcome:
        began.append(context.lease.attempt)
        await context.steps().sleep_until("nap", 3600)
        return Succeeded()

    async with working(database, sleepy, grace_seconds=0):
        task_id = await submit_one(database, "sleepy")
        await until(lambda: _slept(database))
    database.run_sync(lambda tx: tx.execute(_over))
    async with working(database, sleepy):
        assert (await ended(database, task_id)).state == "succeeded"
    assert began == [1, 2]
    assert await outcomes(database, task_id) == ["released", "succeeded"]


async def test_a_signal_ends_one_wait_now_or_later(database: Database) -> None:
    async def waits(context: TaskContext, params: Any) -> Outcome:
        kept = context.steps()
        return Succeeded([await kept.next_signal("go", None), await kept.next_signal("go", None)])

    async with working(database, waits):
        task_id = await submit_one(database, "waits")
        run_id = (await tasks.get(database, task_id)).run_id
        assert await steps.send_signal(database, run_id, "go", {"n": 1}) == 1
        await until(lambda: _taken(database, 1))
        assert await steps.send_signal(database, run_id, "other") == 2
        assert await steps.send_signal(database, run_id, "go", {"n": 2}) == 3
        done = await ended(database, task_id)
    assert done.last is not None and done.last.result == [{"n": 1}, {"n": 2}]
    with pytest.raises(Conflict, match="nobody can wait for a signal any more"):
        await steps.send_signal(database, run_id, "go")
    with pytest.raises(NotFound, match="run not found: 99"):
        await steps.send_signal(database, 99, "go")


async def test_a_signal_that_was_taken_is_there_for_the_next_attempt(database: Database) -> None:
    async def fails_once(context: TaskContext, params: Any) -> Outcome:
        got = await context.steps().next_signal("go", None)
        return Failed("after it") if context.lease.attempt == 1 else Succeeded(got)

    async with working(database, fails_once):
        task_id = await submit_one(database, "fails_once", retry=RETRY)
        await steps.send_signal(database, (await tasks.get(database, task_id)).run_id, "go", 7)
        done = await ended(database, task_id)
    assert done.last is not None and (done.last.number, done.last.result) == (2, 7)


async def test_a_wait_for_a_signal_has_an_end(database: Database) -> None:
    async def waits(context: TaskContext, params: Any) -> Outcome:
        await context.steps().next_signal("go", 0.01)
        return Succeeded()

    async with working(database, waits):
        done = await ended(database, await submit_one(database, "waits"))
    assert done.last is not None and done.last.error is not None
    assert "no signal 'go' came within 0.01 seconds" in done.last.error["message"]


async def test_a_failure_may_name_its_own_delay(database: Database) -> None:
    async def later(context: TaskContext, params: Any) -> Outcome:
        return Failed("busy", delay_ms=3_600_000) if context.lease.attempt == 1 else Succeeded()

    async with working(database, later):
        task_id = await submit_one(database, "later", retry=RETRY)
        task = await until(lambda: _waiting(database, task_id))
    assert task.available_at is not None
    assert 3_500 < (task.available_at - task.changed_at).total_seconds() < 3_700


async def _waiting(database: Database, task_id: int) -> Any:
    task = await tasks.get(database, task_id)
    return task if task.attempt == 1 and task.state == "available" else None


_over = sa.text("UPDATE step SET due_at = at")


def _slept(database: Database) -> list[Any]:
    return rows(database, "SELECT 1 FROM step WHERE due_at IS NOT NULL")


def _taken(database: Database, count: int) -> bool:
    return len(rows(database, "SELECT 1 FROM signal WHERE taken_by IS NOT NULL")) == count
