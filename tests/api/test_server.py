"""The server on a real port: what arrives broken, slowly, in pieces or not at all."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.api.app import create_app
from engine.api.server import new_event_loop, serve
from engine.client.rest import Client
from engine.errors import ConfigError, ServerUnavailable
from engine.store.database import Database, Transaction
from tests.api.service import options, registry

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The event loop that serves in earnest."""
    return "asyncio", {"loop_factory": new_event_loop}


class Running:
    """A server in this event loop, and raw connections to it."""

    def __init__(self, port: int, stop: asyncio.Event, app: Any) -> None:
        self.port = port
        self.stop = stop
        self.app = app
        self.url = f"http://127.0.0.1:{port}"

    async def exchange(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send `pieces`, then read until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            if half_close:
                writer.write_eof()
            async with asyncio.timeout(20):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def running(database: Database, folder: Path, **changes: Any) -> AsyncIterator[Running]:
    app = create_app(database, registry(folder), options(**changes))
    stop, ports = asyncio.Event(), asyncio.Queue[int]()
    handle = asyncio.create_task(
        serve(app, host="127.0.0.1", port=0, stop=stop, grace_seconds=3, on_ready=ports.put_nowait)
    )
    async with asyncio.timeout(10):
        server = Running(await ports.get(), stop, app)
    try:
        yield server
    finally:
        stop.set()
        async with asyncio.timeout(10):
            await handle


@pytest.fixture
async def server(database: Database, tmp_path: Path) -> AsyncIterator[Running]:
    limits: Any = {"read_timeout_seconds": 1.0, "write_timeout_seconds": 20.0}
    async with running(database, tmp_path, **limits) as server:
        yield server


def head_of(answer: bytes) -> bytes:
    return answer.split(b"\r\n", 1)[0]


HOST = b"Host: localhost\r\n"


async def test_requests_are_answered_and_stop_ends_the_server(database: Database, tmp_path: Path) -> None:
    async with running(database, tmp_path) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/health")).json()["status"] == "ok"
        assert (
            await client.post("/tasks", content=b'{"tasks":[{"id":"a/b","type":"noop"}]}')
        ).status_code == 202
        assert (await client.get("/tasks/a%2Fb")).json()["id"] == "a/b"
        assert (await client.head("/tasks/a%2Fb")).content == b""
        response = await client.get("/nothing", headers={"x-trace-id": "my \xe9 id".encode("latin-1")})
        assert response.headers.raw[-4][1] == "my \xe9 id".encode("latin-1")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port)).close()


async def test_headers_that_never_end_are_given_up(server: Running) -> None:
    for pieces in ((b"GET /health HTT",), (b"GET /health HTTP/1.1\r\n", b"A: b\r\n", b"C: d\r\n")):
        answer = await server.exchange(*pieces)
        assert head_of(answer) == b"HTTP/1.1 408 Request Timeout"
        assert b"x-trace-id: " in answer


async def test_dripping_headers_are_given_up(server: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    answer = asyncio.create_task(reader.readline())
    writer.write(b"GET / HTTP/1.1\r\n")
    async with asyncio.timeout(20):
        while not answer.done():
            writer.write(b"A: b\r\n")
            await asyncio.wait({answer}, timeout=0.05)  # so fast they drip
    assert answer.result() == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()


async def test_body_that_never_ends_is_given_up(server: Running) -> None:
    head = b"POST /tasks HTTP/1.1\r\n" + HOST
    for rest in (b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
        answer = await server.exchange(head + rest)
        assert head_of(answer) == b"HTTP/1.1 408 Request Timeout"


async def test_silent_connection_is_closed(server: Running) -> None:
    assert await server.exchange() == b""


async def test_connection_stays_open_between_requests(server: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for _ in range(3):
        writer.write(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        await server.exchange()  # until a silent connection is closed: longer than a request may take
    writer.close()


BROKEN = {
    "not HTTP": b"hello\r\n\r\n",
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "negative length": b"POST /tasks HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n",
    "length as text": b"POST /tasks HTTP/1.1\r\n" + HOST + b"Content-Length: ten\r\n\r\n",
    "two lengths": b"POST /tasks HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    "length and chunks": b"POST /tasks HTTP/1.1\r\n"
    + HOST
    + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "huge chunk size": b"POST /tasks HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{",
    "bad chunk size": b"POST /tasks HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{",
    "line feed in a header": b"GET /health HTTP/1.1\r\nA: b\nC\r\n\r\n",
    "space in a header name": b"GET /health HTTP/1.1\r\nA b: c\r\n\r\n",
    "raw bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
}


@pytest.mark.parametrize("request_bytes", BROKEN.values(), ids=BROKEN.keys())
async def test_broken_request_is_a_400_and_does_nothing(server: Running, request_bytes: bytes) -> None:
    answer = await server.exchange(request_bytes.replace(HOST, HOST + b"Connection: close\r\n", 1))
    status = head_of(answer).split(b" ")[1]
    assert status in (b"400", b"404", b"405", b"408"), answer
    assert b"x-trace-id: " in answer
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/tasks")).json() == []


async def test_too_many_headers_and_too_long_urls_are_refused(server: Running) -> None:
    large = await server.exchange(b"GET /health HTTP/1.1\r\n" + HOST + b"A: " + b"x" * 200_000 + b"\r\n\r\n")
    assert head_of(large).split(b" ")[1] == b"431"
    many = b"".join(b"A%d: b\r\n" % number for number in range(1000))
    assert (
        head_of(await server.exchange(b"GET /health HTTP/1.1\r\n" + HOST + many + b"\r\n")).split(b" ")[1]
        == b"431"
    )
    long = await server.exchange(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert head_of(long).split(b" ")[1] == b"414"


async def test_http_1_0_is_answered_and_closed(server: Running) -> None:
    answer = await server.exchange(b"GET /health HTTP/1.0\r\n\r\n")
    assert head_of(answer) == b"HTTP/1.1 200 OK"
    assert b'"status":"ok"' in answer


async def test_declared_gigabyte_is_refused_at_once(server: Running) -> None:
    answer = await server.exchange(
        b"POST /tasks HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000\r\n\r\n{"
    )
    assert head_of(answer).split(b" ")[1] == b"413"  # and not 408: nobody waited for the rest


async def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    count = 100
    requests = b"".join(b"GET /tasks/t%d HTTP/1.1\r\n" % number + HOST + b"\r\n" for number in range(count))
    answer = await server.exchange(
        requests + b"GET /health HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    )
    found = [answer.find(b'task not found: t%d"' % number) for number in range(count)]
    assert -1 not in found
    assert found == sorted(found)


async def test_broken_second_request_leaves_the_first_its_answer(server: Running) -> None:
    body = b'{"tasks":[{"id":"a","type":"noop"}]}'
    first = b"POST /tasks HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body) + body
    answer = await server.exchange(first + b"nonsense\r\n\r\n")
    assert head_of(answer) == b"HTTP/1.1 202 Accepted"
    assert answer.count(b"HTTP/1.1") == 1


async def test_incomplete_submit_has_no_effect(server: Running) -> None:
    body = b'{"tasks":[{"id":"a","type":"noop"}]}'
    head = b"POST /tasks HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (len(body) + 1)
    assert await server.exchange(head + body, half_close=True) == b""
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/tasks")).json() == []


async def test_handler_that_takes_too_long_is_given_up(database: Database, tmp_path: Path) -> None:
    graph = {"tasks": [{"name": "a", "kind": "noop"}]}
    begun, release = threading.Semaphore(0), threading.Event()

    def hold(tx: Transaction) -> None:
        begun.release()
        release.wait(60)

    async with running(database, tmp_path, write_timeout_seconds=1.0) as server:
        busy = [asyncio.to_thread(database.run_sync, hold) for _ in range(database.writers)]
        holding = asyncio.gather(*busy)
        try:
            for _ in busy:
                assert await asyncio.to_thread(begun.acquire, timeout=30)
            async with httpx.AsyncClient(base_url=server.url) as client:
                response = await client.post("/api/v1/runs", json=graph, timeout=30)
            assert response.status_code == 504  # not 503: what was asked may still happen
            with Client(server.url) as typed, pytest.raises(ServerUnavailable, match="may still be"):
                await asyncio.to_thread(typed.submit_graph, graph)
        finally:
            release.set()
            await holding


async def test_waiting_for_events_ends_before_it_would_be_given_up(
    database: Database, tmp_path: Path
) -> None:
    async with (
        running(database, tmp_path, write_timeout_seconds=1.0) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        run = await client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "noop"}]})
        path = f"/api/v1/runs/{run.json()['run_id']}/events?after=1&wait=20"
        response = await client.get(path, timeout=30)
    assert (response.status_code, response.json()["events"]) == (200, [])


async def test_client_that_never_reads_is_cut_off(database: Database, tmp_path: Path) -> None:
    limits: Any = {"write_timeout_seconds": 0.5}
    async with running(database, tmp_path, **limits) as server:
        direct = httpx.ASGITransport(server.app)  # without the limit of time
        async with httpx.AsyncClient(transport=direct, base_url="http://localhost") as client:
            params = {"message": "x" * 100_000}
            tasks = [{"id": f"t{number}", "type": "noop", "params": params} for number in range(200)]
            assert (await client.post("/tasks", json={"tasks": tasks})).status_code == 202
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.connect(("127.0.0.1", server.port))
        listener.sendall(b"GET /tasks HTTP/1.1\r\n" + HOST + b"\r\n")
        listener.settimeout(0.1)
        async with asyncio.timeout(10):
            while True:  # without reading: an error shows that the other side has gone
                await asyncio.sleep(0.2)
                try:
                    listener.send(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
                except OSError:
                    break
        listener.close()


async def test_long_poll_ends_when_the_server_stops(
    database: Database, tmp_path: Path, looked: asyncio.Event
) -> None:
    async with running(database, tmp_path) as server, httpx.AsyncClient(base_url=server.url) as client:
        run = (await client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "noop"}]})).json()
        poll = asyncio.create_task(
            client.get(f"/api/v1/runs/{run['run_id']}/events?after=1&wait=20", timeout=30)
        )
        await looked.wait()
        server.stop.set()  # `running` waits 10 s for the end
        response = await poll
        assert (response.status_code, response.json()["events"]) == (200, [])


async def test_connection_too_many_is_refused_at_once(database: Database, tmp_path: Path) -> None:
    async with running(database, tmp_path, max_connections=2) as server:
        kept = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2)]
        for _, writer in kept:
            writer.write(b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n")
        for reader, _ in kept:
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        refused = await server.exchange()
        assert head_of(refused) == b"HTTP/1.1 503 Service Unavailable"
        assert b"retry-after: 1\r\n" in refused
        assert b"x-trace-id: " in refused
        for _, writer in kept:
            writer.close()
        async with asyncio.timeout(20):  # until the server has seen that they have gone
            while b" 200 " not in head_of(await server.exchange(LAST)):
                pass


LAST = b"GET /health HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
async def test_upgrade_is_not_taken(server: Running, protocol: bytes) -> None:
    """The request is answered as if nobody had asked, which is what HTTP wants of a server that will not."""
    body = b'{"tasks":[{"id":"a","type":"noop"}]}'
    upgrade = HOST + b"Connection: Upgrade, close\r\nUpgrade: " + protocol + b"\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)
    submitted = await server.exchange(b"POST /tasks HTTP/1.1\r\n" + upgrade + length + body)
    assert head_of(submitted) == b"HTTP/1.1 202 Accepted"
    shown = await server.exchange(b"GET /tasks/a HTTP/1.1\r\n" + upgrade + b"\r\n")
    assert head_of(shown) == b"HTTP/1.1 200 OK"
    assert b"x-trace-id: " in shown


async def test_unix_socket_is_served_for_our_own_user_only(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "s"
    app = create_app(database, registry(tmp_path), options())
    stop, ready = asyncio.Event(), asyncio.Event()
    handle = asyncio.create_task(
        serve(app, uds=path, stop=stop, grace_seconds=1, on_ready=lambda _: ready.set())
    )
    await ready.wait()
    assert path.stat().st_mode & 0o777 == 0o600
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path))) as client:
        assert (await client.get("http://localhost/health")).status_code == 200
    with pytest.raises(ConfigError, match="another server uses it"):
        await serve(app, uds=path, stop=asyncio.Event())
    stop.set()
    await handle
    assert not path.exists()


async def test_port_in_use_is_explained(server: Running, database: Database, tmp_path: Path) -> None:
    app = create_app(database, registry(tmp_path), options())
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{server.port}"):
        await serve(app, host="127.0.0.1", port=server.port, stop=asyncio.Event())
