"""Changes of all instances of a workflow."""

from __future__ import annotations

from typing import Any

import pytest

from engine.operations import executions, runs, workflows
from engine.store.database import Database
from tests.api.streams.listening import (
    age,
    ends,
    everything,
    listening,
    numbers_of,
    save,
    start,
    told,
    told_until,
    work,
)
from tests.api.test_server import Running
from tests.factories import rows, write

pytestmark = pytest.mark.anyio


async def test_a_workflow_tells_what_is_alive_and_what_starts_later(
    database: Database, server: Running
) -> None:
    ended = await start(database)
    await work(database)
    alive = await start(database)
    other = await start(database, "another")
    async with listening(server, "workflows/orders") as socket:
        first = await told(socket)
        assert (first["instance_id"], first["status"]) == (str(alive), "Ready")
        later = (await executions.execute(database, "orders")).run_id
        await work(database)
        found = await told_until(socket, ends(later))
    seen = {message["instance_id"] for message in found}
    assert seen == {str(alive), str(later)}
    assert str(ended) not in seen
    assert str(other) not in seen
    of_later = [message["number"] for message in found if message["instance_id"] == str(later)]
    assert of_later == await numbers_of(database, later)


async def test_a_workflow_without_living_instances_tells_the_newest(
    database: Database, server: Running
) -> None:
    workflow_id = await save(database)
    async with listening(server, f"workflows/{workflow_id}") as socket:  # nothing to tell yet
        first = (await executions.execute(database, workflow_id)).run_id
        assert ((await told(socket))["instance_id"]) == str(first)
    await work(database)
    async with listening(server, f"workflows/{workflow_id}") as socket:
        message = await told(socket)
        assert (message["status"], message["number"]) == ("Success", 11)
        assert message["cursor"]


async def test_a_deleted_workflow_ends_its_stream_after_all_is_told(
    database: Database, server: Running
) -> None:
    run_id = await start(database)
    async with (
        listening(server, "workflows/orders") as socket,
        listening(server, "workflows/orders", after=0) as other,
    ):
        await told(socket)
        await work(database)
        workflow_id = await workflows.delete(database, "orders")
        await save(database)  # another one of this name
        for each, first in ((socket, 2), (other, 1)):
            found, code = await everything(each)
            assert [message["number"] for message in found] == (await numbers_of(database, run_id))[
                first - 1 :
            ]
            assert (code, each.close_reason) == (4404, f"workflow not found: {workflow_id}")


async def test_a_deleted_workflow_that_nobody_ran_ends_its_stream(
    database: Database, server: Running
) -> None:
    workflow_id = await save(database)
    async with listening(server, f"workflows/{workflow_id}") as socket:
        await workflows.delete(database, workflow_id)
        assert await everything(socket) == ([], 4404)


async def test_cursors_stay_small_and_right_with_many_old_runs(database: Database, server: Running) -> None:
    """A retried old run, a new run and one with a low id that is committed late are told; old ones not."""
    workflow_id = await save(database, chain="load")
    old = [(await executions.execute(database, workflow_id)).run_id for _ in range(30)]
    late = old.pop(3)
    await work(database, "load")
    age(database)
    kept = take_away(database, late)
    async with listening(server, f"workflows/{workflow_id}") as socket:
        cursor = (await told(socket))["cursor"]
    assert len(cursor) < 30
    put_back(database, kept)
    await runs.retry(database, late)
    await runs.retry(database, old[5])
    new = (await executions.execute(database, workflow_id)).run_id
    await work(database)
    expected = {
        str(new): await numbers_of(database, new),
        str(old[5]): (await numbers_of(database, old[5]))[5:],
    }
    async with listening(server, f"workflows/{workflow_id}", after=cursor) as socket:
        by_run: dict[str, list[int]] = {}
        while not expected.items() <= by_run.items() or str(late) not in by_run:
            message = await told(socket)
            by_run.setdefault(message["instance_id"], []).append(message["number"])
            assert len(message["cursor"]) < 80
    assert by_run.keys() == {str(new), str(old[5]), str(late)}


def take_away(database: Database, run_id: int) -> list[Any]:
    found = rows(database, "SELECT * FROM workflow_run WHERE run_id = :run_id", run_id=run_id)
    write(database, "DELETE FROM workflow_run WHERE run_id = :run_id", run_id=run_id)
    return found


def put_back(database: Database, found: list[Any]) -> None:
    [row] = found
    write(
        database,
        "INSERT INTO workflow_run (run_id, workflow_id, workflow_name, version)"
        " VALUES (:run_id, :workflow_id, :workflow_name, :version)",
        run_id=row.run_id,
        workflow_id=row.workflow_id,
        workflow_name=row.workflow_name,
        version=row.version,
    )
