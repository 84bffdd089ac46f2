"""Rows of a table that only grows, and notifications of a channel, from somebody's Postgres database."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from pydantic import Field

from engine.errors import InvalidInput
from engine.model.json import JSON
from engine.streams.ports import Network
from engine.streams.sources import Connected, Item, Options, Reads, from_message, storable

CONNECT_SECONDS = 10
_PORT = 5432
# A server that is cut off is noticed in seconds instead of the kernel's fifteen minutes.
_KEEPALIVE: Final = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "task-engine stream",
}

# A row of a transaction that ended before another one which began earlier would hide what that still writes:
# only rows older than every transaction under way are read.
_SETTLED = "age(t.xmin) > age(pg_snapshot_xmin(pg_current_snapshot())::xid)"

Connection = psycopg.AsyncConnection[dict[str, Any]]


class TableOptions(Options):
    """`key` is unique and grows with time, such as an identity column; it is the offset."""

    url: str
    table: str = Field(min_length=1)
    key: str = "id"
    columns: list[str] = Field([])
    page: int = Field(500, ge=1, le=10_000)


class ListenOptions(Options):
    url: str
    channel: str = Field(min_length=1)


class _Server:
    """The database, as far as it may be reached."""

    def __init__(self, url: str, network: Network) -> None:
        """Raises `InvalidInput` for a URL that cannot be read, or that leaves open which server it means."""
        try:
            known = conninfo_to_dict(url)
        except psycopg.Error as error:
            raise InvalidInput(f"params.source.url: {str(error).strip()}") from None
        self._host, self._port = str(known.get("host") or ""), _port_of(known)
        named = str(known.get("hostaddr") or "")
        if "," in self._host + named or known.get("service"):
            raise InvalidInput("params.source.url: name one server by its host")
        if network.is_guarded and (not self._host or named or self._host.startswith("/")):
            raise InvalidInput("params.source.url: name the server by its host, without hostaddr or a socket")
        self._url = url
        self._network = network
        self.endpoint = f"{self._host or 'localhost'}:{self._port}/{known.get('dbname') or ''}"

    async def connect(self) -> Connection:
        pinned: dict[str, str] = {}
        if self._host and not self._host.startswith("/"):
            [address, *_] = await self._network.addresses(self._host, self._port)
            if _is_number(address):
                pinned["hostaddr"] = address
        given: dict[str, Any] = {**_KEEPALIVE, **pinned}
        return await Connection.connect(
            self._url, autocommit=True, row_factory=dict_row, **given
        )


class TableSource:
    """Rows in the order of their key, asked for `every` so many seconds, or once until there is none left."""

    protocol = "table"
    replayable = True

    def __init__(self, options: TableOptions, network: Network, *, every: float | None) -> None:
        self._server = _Server(options.url, network)
        self._options = options
        self._every = every
        self.endpoint = self._server.endpoint
        self.name = f"table {options.table}"

    async def items(self, offset: JSON, /) -> Reads:
        async with await self._server.connect() as connection:
            yield Connected()
            while True:
                rows = await self._page(connection, offset)
                for row in rows:
                    offset = storable(row[self._options.key])
                    yield Item(storable(row), offset)
                if len(rows) == self._options.page:
                    continue
                if self._every is None and not rows:
                    return
                if self._every is not None:
                    await asyncio.sleep(self._every)

    async def _page(self, connection: Connection, offset: JSON) -> list[dict[str, Any]]:
        options = self._options
        key = sql.Identifier(options.key)
        names = dict.fromkeys([options.key, *options.columns])
        query = sql.SQL("SELECT {} FROM {} AS t WHERE {} AND {} ORDER BY {} LIMIT {}").format(
            sql.SQL(", ").join(map(sql.Identifier, names)) if options.columns else sql.SQL("*"),
            sql.Identifier(*options.table.split(".")),
            sql.SQL(_SETTLED),
            sql.SQL("true") if offset is None else sql.SQL("{} > {}").format(key, sql.Placeholder()),
            key,
            sql.Literal(options.page),
        )
        cursor = await connection.execute(query, [] if offset is None else [offset])
        return await cursor.fetchall()


class ListenSource:
    """Payloads of NOTIFY. What is sent while nobody listens is lost, as always."""

    protocol = "listen"
    replayable = False

    def __init__(self, options: ListenOptions, network: Network) -> None:
        self._server = _Server(options.url, network)
        self._channel = options.channel
        self.endpoint = self._server.endpoint
        self.name = f"channel {options.channel}"

    async def items(self, offset: JSON, /) -> Reads:
        async with await self._server.connect() as connection:
            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
            yield Connected()
            async with aclosing(connection.notifies()) as notifications:
                async for notification in notifications:
                    yield Item(from_message(notification.payload))
        raise ConnectionError("the server sends no more notifications")


def _port_of(known: Mapping[str, Any]) -> int:
    port = str(known.get("port") or _PORT)
    if not port.isdigit():
        raise InvalidInput(f"params.source.url: the port is a number, got {port!r:.40}")
    return int(port)


def _is_number(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True
