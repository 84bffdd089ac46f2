"""Runs to be told of, and clients that listen."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from engine.api.access import SOCKET_ROOT
from engine.definitions import read_workflows
from engine.model.outcomes import Failed, Succeeded
from engine.operations import executions, runs, tasks, tokens, workflows
from engine.store.database import Database
from tests.api.test_server import Running, running
from tests.factories import request, session_async, write

LINE = "load -> price -> book"
PATIENCE_SECONDS = 30


# --- what happens


async def save(database: Database, name: str = "orders", chain: str = LINE) -> str:
    names = [part.strip() for part in chain.split("->")]
    listed = "".join(
        f"        - {{task_id: {task}, kind: noop, dependencies: [{above}]}}\n"
        for above, task in zip(["", *names], names, strict=False)
    )
    text = f"workflows:\n  definitions:\n    - workflow_id: {name}\n      tasks:\n{listed}"
    found = read_workflows(text, checks=await workflows.checks(database))
    return (await workflows.save(database, found))[0].id


async def start(database: Database, name: str = "orders", chain: str = LINE) -> int:
    await save(database, name, chain)
    return (await executions.execute(database, name)).run_id


async def work(database: Database, *failing: str, rounds: int = 1_000_000, code: str = "no") -> None:
    """Run whatever can run, at most so many tasks one after the other; the named ones fail."""
    worker = await session_async(database)
    for _ in range(rounds):
        leases = await tasks.claim(database, request(worker, 1), actor="worker")
        if not leases:
            return
        failed = Failed("it broke", code=code, is_permanent=True)
        ended = [(lease, failed if lease.name in failing else Succeeded({"ok": 1})) for lease in leases]
        await tasks.finish(database, ended, actor="worker")


async def numbers_of(database: Database, run_id: int) -> list[int]:
    found = await runs.events(database, run_id, limit=100_000)
    assert [event.number for event in found] == list(range(1, len(found) + 1))
    return [event.number for event in found]


def age(database: Database) -> None:
    """Let all that happened have happened an hour ago."""
    ago = (datetime.now(UTC) - timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
    cast = "CAST(:ago AS timestamptz)" if not database.is_private and database.dialect.locks_rows else ":ago"
    for table, column in (("run", "finished_at"), ("run", "started_at"), ("event", "at")):
        write(database, f"UPDATE {table} SET {column} = {cast}", ago=ago)


# --- clients


def url_of(server: Running, path: str, after: Any = None) -> str:
    return f"ws://127.0.0.1:{server.port}{SOCKET_ROOT}{path}" + ("" if after is None else f"?after={after}")


def listening(server: Running, path: str, after: Any = None, **options: Any) -> connect:
    return connect(url_of(server, path, after), proxy=None, **options)


async def told(socket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        message: dict[str, Any] = json.loads(await socket.recv())
    return message


async def told_until(
    socket: ClientConnection, is_last: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    found = [await told(socket)]
    while not is_last(found[-1]):
        found.append(await told(socket))
    return found


def ends(run_id: int, status: str = "Success") -> Callable[[dict[str, Any]], bool]:
    expected = ("instance_status", str(run_id), status)
    return lambda message: (message["type"], message["instance_id"], message["status"]) == expected


async def everything(socket: ClientConnection) -> tuple[list[dict[str, Any]], int | None]:
    """All messages until the server closes, and the code it gives."""
    found = []
    try:
        while True:
            found.append(await told(socket))
    except ConnectionClosed as closed:
        return found, None if closed.rcvd is None else closed.rcvd.code


async def refused(server: Running, path: str, after: Any = None, **options: Any) -> tuple[int, Any]:
    """The status and the body of the answer to a handshake."""
    with pytest.raises(InvalidStatus) as caught:
        async with listening(server, path, after, **options):
            pass
    response = caught.value.response
    assert response.headers["x-trace-id"]
    body = json.loads(response.body or b"{}")
    assert body["code"] == response.status_code
    return response.status_code, body["message"]


# --- tokens


async def bearer(database: Database, *scopes: Any) -> str:
    return await tokens.create(database, name="test", scopes=list(scopes))


@asynccontextmanager
async def guarded(database: Database, folder: Path, **changes: Any) -> AsyncIterator[Running]:
    limits: Any = {"require_token": True, "bootstrap_token": "b" * 40, **changes}
    async with running(database, folder, **limits) as server:
        yield server
