"""Who may listen, to what, and how many at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from litestar.routes import WebSocketRoute
from websockets.exceptions import InvalidStatus

from engine.api import access, sockets
from engine.api.access import SOCKET_ROOT, SOCKETS
from engine.api.positions import Position
from engine.operations import tokens
from engine.store.database import Database
from tests.api.streams.frames import handshake
from tests.api.streams.listening import (
    PATIENCE_SECONDS,
    bearer,
    everything,
    guarded,
    listening,
    refused,
    start,
    told,
    work,
)
from tests.api.test_server import HOST, Running, head_of, running

pytestmark = pytest.mark.anyio


async def test_sockets_need_a_token_like_everything_else(database: Database, tmp_path: Path) -> None:
    run_id = await start(database)
    path = f"instances/{run_id}"
    reader, submitter = await bearer(database, "read"), await bearer(database, "submit")
    async with guarded(database, tmp_path) as server:
        assert (await refused(server, path))[0] == 401
        assert (await refused(server, "nothing"))[0] == 401
        assert (await refused(server, f"{path}?token={reader}"))[0] == 401
        assert (await refused(server, f"{path}?access_token={reader}"))[0] == 401
        assert (await refused(server, path, subprotocols=["bearer"]))[0] == 401
        assert (await refused(server, path, subprotocols=["bearer", "te_wrong"]))[0] == 401
        assert (await refused(server, path, subprotocols=["bearer", submitter]))[0] == 403
        header = {"Authorization": f"Bearer {submitter}"}
        assert (await refused(server, path, additional_headers=header))[0] == 403
        header = {"Authorization": f"Bearer {reader}"}
        assert (await refused(server, "nothing", additional_headers=header))[0] == 404
        async with listening(server, path, additional_headers=header) as socket:
            assert socket.subprotocol is None
            await told(socket)
        async with listening(server, path, subprotocols=["bearer", reader]) as socket:
            assert socket.subprotocol == "bearer"
            await told(socket)


async def test_a_revoked_token_ends_its_sockets(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "RECHECK_SECONDS", 0.05)
    monkeypatch.setattr(access, "_FRESH_SECONDS", 0.05)
    run_id = await start(database)
    reader, other = await bearer(database, "read"), await bearer(database, "read")
    async with guarded(database, tmp_path) as server:
        path = f"instances/{run_id}"
        async with (
            listening(server, path, subprotocols=["bearer", reader]) as socket,
            listening(server, path, subprotocols=["bearer", other]) as kept,
        ):
            await told(socket)
            await tokens.revoke(database, reader.split("_")[1])
            assert await everything(socket) == ([], 4401)
            assert (await told(kept))["number"] == 1
            await work(database)
            assert (await everything(kept))[1] == 1000


async def test_pages_of_other_sites_may_not_listen(database: Database, tmp_path: Path) -> None:
    run_id = await start(database)
    path = f"instances/{run_id}"
    async with running(database, tmp_path, cors_origins=("https://board.example",)) as server:
        for origin in ("https://evil.example", "null", f"http://localhost:{server.port}"):
            assert (await refused(server, path, origin=origin))[0] == 403
        header = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
        assert (await refused(server, path, additional_headers=header))[0] == 403
        for origin in (f"http://127.0.0.1:{server.port}", "https://board.example"):
            async with listening(server, path, origin=origin) as socket:
                await told(socket)
        answer = await server.exchange(handshake(path, host=b"evil.example"))
        assert head_of(answer).split(b" ")[1] == b"403"
        answer = await server.exchange(handshake(path, extra=HOST))
        assert head_of(answer).split(b" ")[1] == b"400"


async def test_every_socket_has_a_scope(server: Running) -> None:
    served = {route.path_format for route in server.app.routes if isinstance(route, WebSocketRoute)}
    assert served == set(SOCKETS)


# --- refusals


async def test_what_is_not_there_is_refused_before_the_upgrade(database: Database, server: Running) -> None:
    plain = await runs_without_workflow(server)
    for path in (
        "instances/777",
        "instances/x",
        f"instances/{plain}",
        "workflows/wf-none",
        "nothing",
        "a/b/c",
    ):
        assert (await refused(server, path))[0] == 404, path


async def runs_without_workflow(server: Running) -> int:
    async with httpx.AsyncClient(base_url=server.url) as client:
        answer = await client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "noop"}]})
    run_id: int = answer.json()["run_id"]
    return run_id


async def test_what_is_no_place_to_go_on_is_refused(database: Database, server: Running) -> None:
    run_id = await start(database)
    for after in ("-1", "x", "", 2**63, 2, "9" * 5_000, "%00"):
        status, message = await refused(server, f"instances/{run_id}", after)
        assert (status, "after" in message) == (400, True), after
    ahead = Position(datetime.now(UTC) + timedelta(hours=1), {}).cursor()
    for after in ("-1", "x", "", "%00", "AAAA", ahead):
        status, message = await refused(server, "workflows/orders", after)
        assert (status, "after" in message) == (400, True), after


async def test_http_is_told_that_it_is_a_socket(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with httpx.AsyncClient(base_url=server.url) as client:
        response = await client.get(f"{SOCKET_ROOT}instances/{run_id}")
        assert (response.status_code, response.headers["upgrade"]) == (426, "websocket")
        assert (await client.get(f"{SOCKET_ROOT}nothing")).status_code == 404


async def test_sockets_are_limited_in_number(database: Database, tmp_path: Path) -> None:
    run_id = await start(database)
    path = f"instances/{run_id}"
    async with running(database, tmp_path, max_sockets=2) as server:
        async with listening(server, path) as one, listening(server, path) as other:
            await told(one)
            await told(other)
            assert (await refused(server, path))[0] == 503
            async with httpx.AsyncClient(base_url=server.url) as client:
                assert (await client.get("/health")).status_code == 200
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:  # until the server has seen that they have gone
                try:
                    async with listening(server, path):
                        break
                except InvalidStatus:
                    continue
    reader = await bearer(database, "read")
    async with (
        guarded(database, tmp_path, max_sockets_each=1) as server,
        listening(server, path, subprotocols=["bearer", reader]) as socket,
    ):
        await told(socket)
        assert (await refused(server, path, subprotocols=["bearer", reader]))[0] == 429
        async with listening(server, path, subprotocols=["bearer", "b" * 40]) as another:
            await told(another)
