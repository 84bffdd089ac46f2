"""Claims beside outcomes: what keeps a worker from one of them must not keep it from the other."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

from engine.executors.base import TaskContext
from engine.model.graph import TaskSpec
from engine.model.outcomes import Outcome, Succeeded
from engine.model.records import Lease
from engine.operations import runs, tasks
from engine.store.database import Database
from engine.worker.claimer import Claimer
from tests.factories import KIND, rows, session_async, spec
from tests.worker.bench import ended, submit, submit_one, until, working

pytestmark = pytest.mark.anyio


async def short(context: TaskContext, params: Any) -> Outcome:
    await asyncio.sleep(0.02)
    return Succeeded()


async def test_a_run_that_somebody_owns_does_not_hold_up_the_others(database: Database) -> None:
    go_on = asyncio.Event()

    async def waits(context: TaskContext, params: Any) -> Outcome:
        await go_on.wait()
        return Succeeded()

    async with working(database, waits, short, concurrency=4):
        held = await submit(database, *(spec(f"w{i}", kind="waits") for i in range(3)))
        await until(lambda: len(_running(database)) == 3)
        [run_id] = {row.run_id for row in _running(database)}
        others = await submit(database, *(spec(f"s{i}", kind="short") for i in range(40)))
        with ExitStack() as stack:
            if database.dialect.locks_rows:
                connection = stack.enter_context(database.engine.connect())
                connection.exec_driver_sql(
                    "SELECT pg_advisory_lock((x'72756e73'::bit(32)::bigint << 32) # %(id)s)", {"id": run_id}
                )
                stack.callback(connection.invalidate)
            go_on.set()
            for task_id in others:
                await ended(database, task_id)
            if database.dialect.locks_rows:
                assert (await runs.get(database, run_id)).succeeded == 0
        for task_id in held:
            await ended(database, task_id)


def _running(database: Database) -> list[Any]:
    return rows(database, "SELECT run_id FROM task_state WHERE state = 'running' AND kind = 'waits'")


async def test_a_queue_that_is_new_to_a_busy_worker_gets_its_turn(database: Database) -> None:
    async with working(database, short, concurrency=1, poll_seconds=0.1):
        backlog = await submit(database, *(spec(f"s{i}", kind="short") for i in range(400)))
        await ended(database, backlog[0])
        await ended(database, await submit_one(database, "short", queue="new"))
        left = rows(database, "SELECT 1 FROM task_state WHERE state = 'available' AND queue = 'default'")
        assert left


async def instant(context: TaskContext, params: Any) -> Outcome:
    return Succeeded()


async def test_what_outcomes_release_is_claimed_with_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim of its own would only be in the way of the write that brings the next tasks."""
    claims: list[int] = []
    claim = tasks.claim

    async def counted(*args: Any, **named: Any) -> list[Lease]:
        leases = await claim(*args, **named)
        claims.append(len(leases))
        return leases

    monkeypatch.setattr(tasks, "claim", counted)
    layers = [[f"t{layer}-{number}" for number in range(10)] for layer in range(30)]
    graph = [spec(name, kind="instant") for name in layers[0]]
    for above, below in pairwise(layers):
        graph += [spec(name, *(above * 2)[at : at + 2], kind="instant") for at, name in enumerate(below)]
    async with working(database, instant, concurrency=20, poll_seconds=60):
        last = (await submit(database, *graph))[-1]
        await ended(database, last)
    assert sum(claims) < 30, claims
    assert len(claims) < 15, claims


async def test_a_claim_is_a_part_of_the_room_unless_layers_of_tasks_depend_on_each_other(
    row_locking: Database,
) -> None:
    """What a write cannot take of the next layer is written once more."""
    leases: list[Lease] = []
    worker = await session_async(row_locking)
    claimer = Claimer(row_locking, worker, (), (KIND,), "w", lambda: 1_000, leases.extend, lambda: None, 100)

    async def claimed(*specs: TaskSpec) -> list[Lease]:
        leases.clear()
        await submit(row_locking, *specs)
        claimer.start_over()
        await claimer.claim()
        return list(leases)

    above = [spec(f"a{number}") for number in range(100)]
    first = await claimed(*above, *(spec(f"b{n}", f"a{n}", f"a{(n + 1) % 100}") for n in range(100)))
    assert len(first) == 100
    await claimer.claim_along([(lease, Succeeded()) for lease in first])
    many = await claimed(*(spec(f"c{number}") for number in range(300)))
    assert len(many) == 300
    await claimer.claim_along([(lease, Succeeded()) for lease in many])  # nothing was below these
    assert len(await claimed(*(spec(f"d{number}") for number in range(300)))) == 100
