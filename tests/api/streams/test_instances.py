"""Changes of one instance, pushed by real servers to real clients."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.model.graph import Rule
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import executions, runs, workflows
from engine.store.database import Database
from tests.api.streams.listening import (
    PATIENCE_SECONDS,
    ends,
    everything,
    listening,
    numbers_of,
    start,
    told,
    told_until,
    work,
)
from tests.api.test_server import Running
from tests.factories import write

pytestmark = pytest.mark.anyio


async def test_the_example_of_the_docs_works(
    database: Database, server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "rest.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page.partition("## WebSockets")[2], re.DOTALL)
    scope: dict[str, Any] = {}
    exec(example.replace("localhost:8080", f"localhost:{server.port}"), scope)
    run_id = await start(database)
    await work(database, "book")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await scope["follow"](str(run_id))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(await numbers_of(database, run_id))
    assert lines[-2:] == ["book Failed it broke", "instance Failed it broke"]


async def test_every_change_of_an_instance_is_told_in_order(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}") as socket:
        first = await told(socket)
        await work(database)
        rest, code = await everything(socket)
    assert first == {
        "type": "instance_status",
        "instance_id": str(run_id),
        "status": "Ready",
        "progress": {"total": 3, "completed": 0, "running": 0, "failed": 0, "pending": 3},
        "timestamp": first["timestamp"],
        "number": 1,
    }
    assert [first["number"], *(message["number"] for message in rest)] == await numbers_of(database, run_id)
    assert [(message.get("task_name"), message["status"]) for message in rest] == [
        (None, "Running"),
        ("load", "Running"),
        ("load", "Success"),
        ("price", "Pending"),
        ("price", "Running"),
        ("price", "Success"),
        ("book", "Pending"),
        ("book", "Running"),
        ("book", "Success"),
        (None, "Success"),
    ]
    assert all((message["type"] == "task_status") == ("task_id" in message) for message in rest)
    assert rest[-1]["progress"]["completed"] == 3
    assert all(datetime.fromisoformat(message["timestamp"]).tzinfo for message in rest)
    assert code == 1000


async def test_an_instance_that_has_ended_is_told_and_closed(database: Database, server: Running) -> None:
    run_id = await start(database)
    await work(database)
    last = (await numbers_of(database, run_id))[-1]
    async with listening(server, f"instances/{run_id}") as socket:
        [message], code = await everything(socket)
        assert (message["status"], message["number"], code) == ("Success", last, 1000)
    async with listening(server, f"instances/{run_id}", after=0) as socket:
        found, code = await everything(socket)
        assert ([message["number"] for message in found], code) == (await numbers_of(database, run_id), 1000)
    async with listening(server, f"instances/{run_id}", after=last) as socket:
        assert await everything(socket) == ([], 1000)


async def test_failures_say_why(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}", after=1) as socket:
        await work(database, "price", code="timeout")
        found, _ = await everything(socket)
    by_task = {message.get("task_name"): message for message in found}
    assert by_task["load"].get("error") is None
    assert (by_task["price"]["status"], by_task["price"]["error"]) == ("TimeoutFailed", "it broke")
    assert by_task["book"]["status"] == "Failed"
    assert "price" in by_task["book"]["error"]
    assert (by_task[None]["status"], by_task[None]["error"]) == ("Failed", "it broke")
    assert by_task[None]["progress"]["failed"] == 2


async def test_a_status_that_was_told_stays_told(database: Database, server: Running) -> None:
    noop = partial(WorkflowTask, kind="noop")
    tasks = [
        noop("load"),
        noop("watch", depends_on=["load"], rule=Rule.ONE_FAILED),
        noop("price", depends_on=["load"]),
        noop("book", depends_on=["price"]),
        noop("report", depends_on=["book"]),
    ]
    await workflows.save(database, [Workflow("orders", tasks=tasks)])
    run_id = (await executions.execute(database, "orders")).run_id
    async with listening(server, f"instances/{run_id}", after=1) as socket:
        await work(database, "price")
        first, _ = await everything(socket)
    last = {message["task_name"]: message["status"] for message in first if "task_id" in message}
    assert last == {
        "load": "Success",
        "watch": "Skipped",
        "price": "Failed",
        "book": "Failed",
        "report": "Failed",
    }
    assert (first[-1]["progress"]["failed"], first[-1]["progress"]["skipped"]) == (3, 1)
    async with listening(server, f"instances/{run_id}") as socket:
        [now], _ = await everything(socket)
    assert now["progress"] == first[-1]["progress"]
    await runs.retry(database, run_id)
    await work(database)
    async with listening(server, f"instances/{run_id}", after=1) as socket:
        again, _ = await everything(socket)
    statuses = [(message["number"], message["status"]) for message in again]
    assert statuses[: len(first)] == [(message["number"], message["status"]) for message in first]
    assert again[-1]["progress"]["skipped"] == 1


async def test_control_is_told_whoever_does_it(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}", after=1) as socket:
        for act, status in ((runs.hold, "Paused"), (runs.resume, "Ready")):
            await act(database, run_id)
            await told_until(socket, ends(run_id, status))
        await work(database, rounds=1)
        await runs.hold(database, run_id)
        await told_until(socket, ends(run_id, "Paused"))
        await runs.resume(database, run_id)
        await told_until(socket, ends(run_id, "Running"))
        await runs.cancel(database, run_id)
        found, code = await everything(socket)
    cancelling, ended = (message for message in found if message["type"] == "instance_status")
    assert (cancelling["status"], cancelling["error"]) == ("Running", "context canceled")
    assert ended["status"] == "Terminated"
    last = {message["task_name"]: message["status"] for message in found if "task_id" in message}
    assert set(last.values()) == {"Cancelled"}
    assert code == 1000


async def test_an_instance_that_is_retried_goes_on_where_the_reader_was(
    database: Database, server: Running
) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}", after=0) as socket:
        await work(database, "book")
        before, _ = await everything(socket)
    await runs.retry(database, run_id)
    async with listening(server, f"instances/{run_id}", after=before[-1]["number"]) as socket:
        await work(database)
        after, code = await everything(socket)
    numbers = [message["number"] for message in before + after]
    assert (numbers, code) == (await numbers_of(database, run_id), 1000)
    assert (after[0]["status"], after[-1]["status"]) == ("Running", "Success")


async def test_a_removed_instance_ends_its_stream(database: Database, server: Running) -> None:
    run_id = await start(database)
    await work(database, "load")
    async with AsyncExitStack() as stack:
        await runs.retry(database, run_id)
        socket = await stack.enter_async_context(listening(server, f"instances/{run_id}"))
        await told(socket)
        write(database, "DELETE FROM workflow_run")
        write(database, "DELETE FROM event")
        write(database, "DELETE FROM run")
        assert await everything(socket) == ([], 4404)
