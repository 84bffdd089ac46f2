"""Events that are published to event-driven tasks: stored for those who take them, until they have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.errors import Conflict, NotFound, Overloaded
from engine.functions.context import Context
from engine.model.graph import Graph, TaskSpec
from engine.model.realtime import (
    Backpressure,
    Pressure,
    RealtimeMode,
    RealtimeTask,
    Subscription,
)
from engine.model.workflow_graph import REALTIME, graph_of
from engine.model.workflows import Mode, Workflow
from engine.operations import runs, stream_state, submits
from engine.store.database import Database
from tests.factories import do, rows
from tests.worker.bench import ended
from tests.worker.streams import numbers, processed, stream_of, streaming, submit, working

pytestmark = pytest.mark.anyio


def listening(**fields: Any) -> RealtimeTask:
    return streaming(mode=RealtimeMode.EVENT_DRIVEN, **fields)


async def test_published_events_reach_those_who_subscribe(database: Database) -> None:
    told: list[Any] = []

    async def on_order(data: Any) -> None:
        told.append(data)

    task = listening(subscriptions=[Subscription("order", "on_order", filter="payload.total > 10")])
    run_id, task_id = await submit(database, task)
    for total in (5, 15, 25):  # before any worker is there
        published = await stream_state.publish(database, run_id, "order", {"total": total})
        assert published.tasks == ["feed"]
    with pytest.raises(Conflict, match=r"takes events of type .odrer. \(they take: data\.arrived, order\)"):
        await stream_state.publish(database, run_id, "odrer")
    async with working(database, on_order):
        row = await processed(database, task_id, 3)
        await runs.cancel(database, run_id)
        await ended(database, task_id)
    assert told == [{"total": 15}, {"total": 25}]
    assert (row.sequence, row.received) == (3, 3)
    with pytest.raises(Conflict, match="nobody takes events any more"):
        await stream_state.publish(database, run_id, "order")
    with pytest.raises(NotFound):
        await stream_state.publish(database, 999, "order")


async def test_a_function_publishes_to_its_own_run(database: Database) -> None:
    got: list[Any] = []

    async def take(ctx: Context) -> list[str]:
        return await ctx.publish("number", {"values": ctx.params["data"]})

    async def note(data: list[Any]) -> None:
        got.extend(data)

    workflow = Workflow(
        "w",
        mode=Mode.STREAMING,
        realtime_tasks=[
            replace(streaming(function="take", collector="numbers"), name="source"),
            replace(listening(function="note"), name="sink"),
        ],
    )
    async with working(database, numbers(2), take, note):
        accepted = await submits.submit(database, graph_of(workflow))
        await processed(database, accepted.task_ids["sink"], 1)
        await runs.cancel(database, accepted.run_id)
        for task_id in accepted.task_ids.values():
            await ended(database, task_id)
    assert got == [{"values": [1, 2]}]
    [batch] = await stream_state.batches(database, accepted.task_ids["source"])
    assert batch.result == ["sink"]


async def test_events_beyond_the_buffer_are_refused_or_dropped(database: Database) -> None:
    run_id, _ = await submit(database, listening(function="take", buffer_size=2, batch_size=1))
    for _ in range(2):
        await stream_state.publish(database, run_id, "any")
    with pytest.raises(Overloaded, match="2 events waiting"):
        await stream_state.publish(database, run_id, "any")
    pressure = Backpressure(0.8, Pressure.DROP)
    dropping = listening(function="take", buffer_size=1, batch_size=1, backpressure=pressure)
    run_id, task_id = await submit(database, dropping)
    await stream_state.publish(database, run_id, "any")
    published = await stream_state.publish(database, run_id, "any")
    assert (published.tasks, published.dropped) == ([], ["feed"])
    assert (await stream_of(database, task_id)).dropped == 1


def test_removing_a_run_removes_its_streams(database: Database) -> None:
    run_id, _ = do(submit(database, listening(function="take")))
    do(stream_state.publish(database, run_id, "any"))
    do(runs.cancel(database, run_id))
    do(runs.delete(database, run_id))
    for table in ("stream", "stream_item", "stream_batch"):
        assert rows(database, f"SELECT 1 FROM {table}") == []


async def test_a_task_that_is_full_cannot_wait_for_itself(database: Database) -> None:
    told: list[str] = []

    async def echo(ctx: Context) -> None:
        for _ in range(3):
            try:
                await ctx.publish("again", None)
            except Conflict as error:
                told.append(str(error))
                return

    task = listening(subscriptions=[Subscription("again", "echo")], buffer_size=2, batch_size=1)
    run_id, task_id = await submit(database, task)
    await stream_state.publish(database, run_id, "again")
    async with working(database, echo):
        await processed(database, task_id, 1)
        await runs.cancel(database, run_id)
        await ended(database, task_id)
    assert told[0] == "task 'feed' has 2 events waiting, and is the one to take them"


@pytest.mark.parametrize(
    "wrong", [{"backpressure": 3}, {"subscriptions": [1]}, {"buffer_size": "x"}, None, []]
)
async def test_a_description_that_makes_no_sense_takes_no_events(database: Database, wrong: Any) -> None:
    """Such a task can be submitted as one of any graph."""
    params = {"mode": "event-driven", **wrong} if isinstance(wrong, dict) else wrong
    accepted = await submits.submit(database, Graph((TaskSpec("feed", REALTIME, params),)))
    with pytest.raises(Conflict, match="it has no event-driven task"):
        await stream_state.publish(database, accepted.run_id, "order")
