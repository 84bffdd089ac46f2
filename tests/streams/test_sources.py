"""The bundled sources, against real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from websockets.asyncio.server import ServerConnection, serve

from engine.errors import InvalidInput
from engine.model.json import JSON
from engine.streams.http import HttpOptions, HttpSource
from engine.streams.postgres import ListenOptions, ListenSource, TableOptions, TableSource
from engine.streams.sources import Connected, Item, Source, from_message, options_of
from engine.streams.tcp import TcpOptions, TcpSource
from engine.streams.websocket import WebSocketOptions, WebSocketSource
from tests.executors.servers import Answer, HttpServer, Request, TcpServer
from tests.sdk.callers import libpq
from tests.streams.bench import ClosedNetwork, OpenNetwork

pytestmark = pytest.mark.anyio

OPEN, CLOSED = OpenNetwork(), ClosedNetwork()


async def read(source: Source, count: int = 1_000, offset: JSON = None) -> list[Item]:
    """Up to `count` items; the first thing it says is that it is connected."""
    found: list[Item] = []
    async with asyncio.timeout(20), aclosing(source.items(offset)) as items:
        assert await anext(items) == Connected()
        async for item in items:
            assert isinstance(item, Item)
            found.append(item)
            if len(found) == count:
                break
    return found


def payloads(items: list[Item]) -> list[Any]:
    return [item.payload for item in items]


@pytest.mark.parametrize(
    ("message", "payload"),
    [
        (b'{"a": 1}', {"a": 1}),
        ("[1, 2]", [1, 2]),
        (b"plain", "plain"),
        (b"\xff\xfe", {"base64": "//4="}),
        (b'"nul \\u0000"', '"nul \\u0000"'),
        ("1e999", "1e999"),
    ],
)
def test_messages_are_json_or_text(message: bytes | str, payload: JSON) -> None:
    assert from_message(message) == payload


def test_wrong_options_say_which_are_accepted() -> None:
    with pytest.raises(InvalidInput, match=r"params\.source\.sendd: .*\(options of this source: send\)"):
        options_of(TcpOptions, {"sendd": "x"})
    with pytest.raises(InvalidInput, match=r"params\.source\.table: "):
        options_of(TableOptions, {"url": "x", "table": 3})


# --- TCP


class Lines(TcpServer):
    """Repeats what it was sent first, then says its lines and hangs up."""

    def __init__(self, *lines: bytes) -> None:
        super().__init__()
        self._lines = lines

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.writelines(self._lines)
        await writer.drain()


async def test_lines_of_tcp_are_items() -> None:
    async with Lines(b'{"n": 1}\r\n', b"\n", b"two\n", b"last") as server:
        options = TcpOptions(send='"hello"\n')
        source = TcpSource(f"tcp://{server.address}", options, OPEN, ends=True)
        assert payloads(await read(source)) == ["hello", {"n": 1}, "two", "last"]


async def test_the_end_of_a_connection_is_a_loss_unless_it_is_the_end() -> None:
    async with Lines(b"one\n") as server:
        source = TcpSource(server.address, TcpOptions(send="\n"), OPEN, ends=False)
        with pytest.raises(ConnectionError, match="the other side closed the connection"):
            await read(source)


async def test_a_line_that_is_cut_off_with_its_connection_is_no_item() -> None:
    async with Lines(b"one\n", b'{"n": 12') as server:
        source = TcpSource(server.address, TcpOptions(send="\n"), OPEN, ends=False)
        async with aclosing(source.items(None)) as items:
            assert [await anext(items), await anext(items)] == [Connected(), Item("one")]
            with pytest.raises(ConnectionError, match="the other side closed the connection"):
                await anext(items)


@pytest.mark.parametrize("url", ["", "tcp://", "http://h:1", "h", "tcp://h:99999"])
def test_wrong_tcp_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="expected tcp://host:port"):
        TcpSource(url, TcpOptions(), OPEN, ends=True)


# --- WebSocket


@asynccontextmanager
async def web_socket() -> AsyncIterator[str]:
    """Repeats the first message, then says two more and closes."""

    async def talk(connection: ServerConnection) -> None:
        await connection.send(await connection.recv())
        await connection.send('{"n": 2}')
        await connection.send(b"\xff")

    async with serve(talk, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"ws://127.0.0.1:{port}/feed"


async def test_messages_of_a_web_socket_are_items() -> None:
    async with web_socket() as url:
        source = WebSocketSource(url, WebSocketOptions(send=["subscribe"]), OPEN, ends=True)
        assert payloads(await read(source)) == ["subscribe", {"n": 2}, {"base64": "/w=="}]
        lost = WebSocketSource(url, WebSocketOptions(send=["again"]), OPEN, ends=False)
        with pytest.raises(ConnectionError, match="the other side closed the connection"):
            await read(lost)


def test_wrong_web_socket_urls_are_refused() -> None:
    with pytest.raises(InvalidInput, match="expected ws://host"):
        WebSocketSource("http://x", WebSocketOptions(), OPEN, ends=True)


# --- HTTP


@pytest.fixture
async def http_server(anyio_backend: str) -> AsyncIterator[HttpServer]:
    async with HttpServer() as server:
        yield server


async def test_an_answer_is_an_item_or_a_list_of_some(http_server: HttpServer) -> None:
    http_server.routes["/one"] = lambda request: Answer(body=b'{"a": 1}')
    http_server.routes["/some"] = lambda request: Answer(body=b'{"rows": [1, 2]}')
    one = HttpSource(f"{http_server.url}/one", HttpOptions(), OPEN, every=None)
    assert payloads(await read(one)) == [{"a": 1}]
    some = HttpSource(f"{http_server.url}/some", HttpOptions(items_field="rows"), OPEN, every=None)
    assert payloads(await read(some)) == [1, 2]
    assert not some.replayable


async def test_polls_go_on_from_the_offset(http_server: HttpServer) -> None:
    def since(request: Request) -> Answer:
        begin = int(request.path.partition("=")[2] or 0)
        return Answer(body=json.dumps([{"id": begin + 1}, {"id": begin + 2}]).encode())

    for begin in ("", "?since=2", "?since=4"):
        http_server.routes[f"/rows{begin}"] = since
    options = HttpOptions(offset_param="since", offset_field="id")
    source = HttpSource(f"{http_server.url}/rows", options, OPEN, every=0.001)
    assert [item.offset for item in await read(source, 4)] == [1, 2, 3, 4]
    assert [item.offset for item in await read(source, 2, offset=4)] == [5, 6]


async def test_an_answer_that_was_seen_is_not_taken_again(http_server: HttpServer) -> None:
    def tagged(request: Request) -> Answer:
        if request.headers.get("if-none-match") == '"1"':
            return Answer(status=304)
        return Answer(body=b'"first"', headers={"ETag": '"1"'})

    http_server.routes["/tagged"] = tagged
    source = HttpSource(f"{http_server.url}/tagged", HttpOptions(), OPEN, every=0.001)
    async with aclosing(source.items(None)) as items:
        assert await anext(items) == Connected()
        assert await anext(items) == Item("first")
        waiting = asyncio.ensure_future(anext(items))
        async with asyncio.timeout(20):
            while len(http_server.requests) < 4:
                await asyncio.sleep(0.005)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize(
    ("path", "message"),
    [("/missing", "HTTP status 404"), ("/zip", "packs its answer"), ("/endless", "larger than 100000 bytes")],
)
async def test_answers_that_are_of_no_use_are_losses(
    http_server: HttpServer, path: str, message: str
) -> None:
    source = HttpSource(f"{http_server.url}{path}", HttpOptions(), OPEN, every=None)
    with pytest.raises(ConnectionError, match=message):
        async with aclosing(source.items(None)) as items:
            await anext(items)


# --- Postgres


@pytest.fixture
def their_url(row_locking_url: str) -> Iterator[str]:
    """Somebody's database, with a table of orders in it."""
    url = libpq(sa.make_url(row_locking_url))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY, total numeric)")
        connection.execute("INSERT INTO orders (total) SELECT n FROM generate_series(1, 5) n")
    yield url


def table(url: str, **changes: Any) -> TableSource:
    options = TableOptions(**{"url": url, "table": "public.orders", "page": 2, **changes})
    return TableSource(options, OPEN, every=None)


async def test_rows_of_a_table_are_items_in_the_order_of_their_key(their_url: str) -> None:
    items = await read(table(their_url))
    assert [item.offset for item in items] == [1, 2, 3, 4, 5]
    assert items[0].payload == {"id": 1, "total": Decimal(1)}
    assert [item.offset for item in await read(table(their_url), offset=3)] == [4, 5]
    assert payloads(await read(table(their_url, columns=["id"]), 1)) == [{"id": 1}]


def polled(url: str, **changes: Any) -> TableSource:
    options = TableOptions(**{"url": url, "table": "orders", "page": 2, **changes})
    return TableSource(options, OPEN, every=0.005)


@asynccontextmanager
async def reading(source: Source, *, offset: JSON) -> AsyncIterator[AsyncGenerator[Any, None]]:
    async with asyncio.timeout(20), aclosing(source.items(offset)) as items:
        assert await anext(items) == Connected()
        yield items


async def looked_often(url: str) -> None:
    """Return when somebody has waited for writers for a while."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        seen: set[Any] = set()
        while len(seen) < 5:
            cursor = await connection.execute(
                "SELECT query_start FROM pg_stat_activity "
                "WHERE query LIKE '%it_does%' AND pid <> pg_backend_pid()"
            )
            seen |= set(await cursor.fetchall())


def writes(connection: psycopg.Connection, total: int) -> None:
    connection.execute("INSERT INTO orders (total) VALUES (%s)", [total])


async def test_rows_wait_for_transactions_that_began_before_theirs_ended(their_url: str) -> None:
    """Otherwise the row of the slower transaction, which has the smaller key, would never be read."""
    with psycopg.connect(their_url) as slow, psycopg.connect(their_url, autocommit=True) as fast:
        writes(slow, 6)
        writes(fast, 7)
        async with reading(polled(their_url), offset=5) as items:
            next_item = asyncio.ensure_future(anext(items))
            await looked_often(their_url)
            assert not next_item.done()
            slow.commit()
            assert [(await next_item).offset, (await anext(items)).offset] == [6, 7]


async def test_a_row_is_not_lost_whose_key_was_taken_before_its_transaction_wrote(their_url: str) -> None:
    """Its transaction has no number yet while its trigger waits: only its lock says that it will write."""
    with psycopg.connect(their_url, autocommit=True) as fast:
        fast.execute(
            "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF NEW.total = 6 THEN PERFORM pg_advisory_xact_lock(6); END IF; RETURN NEW; END $$"
        )
        fast.execute("CREATE TRIGGER lingers BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION linger()")
        fast.execute("SELECT pg_advisory_lock(6)")
        async with (
            await psycopg.AsyncConnection.connect(their_url, autocommit=True) as slow,
            reading(polled(their_url), offset=5) as items,
        ):
            inserting = asyncio.create_task(slow.execute("INSERT INTO orders (total) VALUES (6)"))
            while not fast.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall():
                await asyncio.sleep(0.005)
            writes(fast, 7)
            next_item = asyncio.ensure_future(anext(items))
            await looked_often(their_url)
            assert not next_item.done()
            fast.execute("SELECT pg_advisory_unlock(6)")
            await inserting
            assert [(await next_item).offset, (await anext(items)).offset] == [6, 7]


async def test_a_writer_in_a_partition_is_waited_for(their_url: str) -> None:
    with psycopg.connect(their_url, autocommit=True) as fast, psycopg.connect(their_url) as slow:
        fast.execute("CREATE TABLE parts (id int, total int) PARTITION BY LIST (total)")
        fast.execute("CREATE TABLE part1 PARTITION OF parts FOR VALUES IN (1)")
        fast.execute("CREATE TABLE part2 PARTITION OF parts FOR VALUES IN (2)")
        slow.execute("INSERT INTO part1 VALUES (1, 1)")
        fast.execute("INSERT INTO part2 VALUES (2, 2)")
        async with reading(polled(their_url, table="parts"), offset=None) as items:
            next_item = asyncio.ensure_future(anext(items))
            await looked_often(their_url)
            assert not next_item.done()
            slow.commit()
            assert [(await next_item).offset, (await anext(items)).offset] == [1, 2]


async def test_a_transaction_that_writes_elsewhere_holds_nothing_up(their_url: str) -> None:
    with psycopg.connect(their_url) as other:
        other.execute("CREATE TABLE elsewhere (id int)")
        async with reading(polled(their_url), offset=4) as items:
            assert (await anext(items)).offset == 5


async def test_a_view_is_refused(their_url: str) -> None:
    with psycopg.connect(their_url, autocommit=True) as connection:
        connection.execute("CREATE VIEW seen AS SELECT * FROM orders")
    with pytest.raises(InvalidInput, match=r"params\.source\.table: 'seen' is not a table"):
        await read(table(their_url, table="seen"))


async def test_notifications_are_items(their_url: str) -> None:
    source = ListenSource(ListenOptions(url=their_url, channel="news"), OPEN)
    async with asyncio.timeout(20), aclosing(source.items(None)) as items:
        assert await anext(items) == Connected()
        with psycopg.connect(their_url, autocommit=True) as other:
            other.execute("SELECT pg_notify('news', '{\"n\": 1}')")
        assert await anext(items) == Item({"n": 1})
    assert not source.replayable


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@a,b/x",
        "service=mine",
        "nonsense",
        "",
        "postgresql:///x",
        "postgresql://a/x",
        "host=a user=u passfile=/root/.pgpass",
        "host=a user=u sslkey=/root/key",
    ],
)
def test_wrong_database_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"params\.source\.url"):
        ListenSource(ListenOptions(url=url, channel="news"), OPEN)


# --- the guard


@pytest.mark.parametrize(
    "source",
    [
        TcpSource("127.0.0.1:1", TcpOptions(), CLOSED, ends=True),
        WebSocketSource("ws://127.0.0.1:1", WebSocketOptions(), CLOSED, ends=True),
        TableSource(TableOptions(url="postgresql://u@127.0.0.1/x", table="t"), CLOSED, every=None),
    ],
    ids=["tcp", "websocket", "table"],
)
async def test_sources_ask_where_they_may_connect_to(source: Source) -> None:
    with pytest.raises(OSError, match=r"127\.0\.0\.1 is not a public address"):
        await read(source)


def test_guarded_databases_are_named_by_their_host() -> None:
    for url in ("dbname=x", "host=/tmp dbname=x", "host=h hostaddr=10.0.0.1"):
        with pytest.raises(InvalidInput, match="name the server by its host"):
            ListenSource(ListenOptions(url=url, channel="c"), CLOSED)


async def test_nothing_of_the_worker_is_sent_to_a_database_that_somebody_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """libpq would take the engine's own password from the environment, or from a file at home."""
    monkeypatch.setenv("PGPASSWORD", "ours")
    (tmp_path / "pgpass").write_text("*:*:*:*:ours\n")
    (tmp_path / "pgpass").chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "pgpass"))
    heard = bytearray()

    async def asks_for_the_password(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            (size,) = struct.unpack("!I", await reader.readexactly(4))
            message = await reader.readexactly(size - 4)
            if message[:4] not in (struct.pack("!I", 80877103), struct.pack("!I", 80877104)):
                break
            writer.write(b"N")  # neither TLS nor GSS
        writer.write(b"R" + struct.pack("!II", 8, 3))
        heard.extend(await reader.read())
        writer.close()

    async with await asyncio.start_server(asks_for_the_password, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        source = ListenSource(ListenOptions(url=f"postgresql://u@127.0.0.1:{port}/x", channel="c"), OPEN)
        with pytest.raises((OSError, psycopg.Error)):
            await read(source)
    assert b"ours" not in heard
