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
from engine.streams.sources import Connected, Item, Options, Reads, from_message

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

_FIRST_LOOK_SECONDS = 0.01  # at writers that have not ended; then twice as long each time

# The key of the newest row behind the offset, and who may still write one with a smaller key: it was taken
# from its sequence before that of the newest row, hence by a statement that held its lock on the table then.
# What a statement sees is settled before it looks at locks, so none is missed between the two.
_NEWEST = """
WITH RECURSIVE family (id) AS (
    SELECT {name}::regclass::oid UNION SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = id
)
SELECT
    (SELECT {key} FROM {table} WHERE {behind} ORDER BY {key} DESC LIMIT 1) AS newest,
    ARRAY(SELECT virtualtransaction FROM pg_locks JOIN family ON relation = id WHERE {writes}) AS writers
"""
# A transaction that is prepared goes on under another name: all of these are waited for.
_STILL_WRITES = """
WITH RECURSIVE family (id) AS (
    SELECT {name}::regclass::oid UNION SELECT inhrelid FROM pg_inherits JOIN family ON inhparent = id
)
SELECT EXISTS (
    SELECT FROM pg_locks JOIN family ON relation = id
    WHERE {writes} AND (virtualtransaction = ANY(%(writers)s) OR pid IS NULL)
) AS it_does
"""
_WRITES = """
locktype = 'relation' AND mode = 'RowExclusiveLock' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_PAGE = "SELECT {columns} FROM {table} WHERE {behind} AND {key} <= %(newest)s ORDER BY {key} LIMIT {page}"
_CAN_BE_READ = """
SELECT relkind IN ('r', 'p') AS is_table, pg_is_in_recovery() AS is_replica
FROM pg_class WHERE oid = {name}::regclass
"""

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


# What the driver would take from the worker's environment and home otherwise: whoever may submit names the
# server, and could have the engine's own password sent there.
_NOTHING_OF_OURS = {
    "passfile": "/nonexistent",
    "sslcert": "/nonexistent",
    "sslkey": "/nonexistent",
    "gssencmode": "disable",
}
_FILES = {"service", "passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"}


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
        if network.is_guarded and (not self._host or named or self._host.startswith("/")):
            raise InvalidInput("params.source.url: name the server by its host, without hostaddr or a socket")
        if not self._host or "," in self._host + named:
            raise InvalidInput("params.source.url: name one server by its host")
        if not known.get("user"):
            raise InvalidInput("params.source.url: name the user")
        if files := sorted(_FILES & known.keys()):
            raise InvalidInput(f"params.source.url: {', '.join(files)} would be read on the worker's machine")
        self._url = url
        self._password = str(known.get("password") or "")
        self._network = network
        self.endpoint = f"{self._host}:{self._port}/{known.get('dbname') or ''}"

    async def connect(self) -> Connection:
        pinned: dict[str, str] = {}
        if self._host and not self._host.startswith("/"):
            [address, *_] = await self._network.addresses(self._host, self._port)
            if _is_number(address):
                pinned["hostaddr"] = address
        given: dict[str, Any] = {**_KEEPALIVE, **_NOTHING_OF_OURS, "password": self._password, **pinned}
        return await Connection.connect(self._url, autocommit=True, row_factory=dict_row, **given)


class TableSource:
    """Rows in the order of their key, asked for `every` so many seconds, or once until there is none left.

    Asked for again and again, it leaves no row out: it waits for those who may still write a smaller key.
    """

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
            await self._check(connection)
            yield Connected()
            while True:
                newest = await self._newest(connection, offset)
                while newest is not None and (rows := await self._page(connection, offset, newest)):
                    for row in rows:
                        offset = row[self._options.key]
                        yield Item(self._chosen(row), offset)
                if self._every is not None:
                    await asyncio.sleep(self._every)
                elif newest is None:
                    return

    async def _check(self, connection: Connection) -> None:
        found = await self._one(connection, _CAN_BE_READ)
        if not found["is_table"]:
            raise InvalidInput(f"params.source.table: {self._options.table!r:.200} is not a table")
        if found["is_replica"]:  # for now: it may become the primary
            raise ConnectionError("the server is a replica, which does not know who still writes")

    async def _newest(self, connection: Connection, offset: JSON) -> Any:
        """The key up to which rows can be read, None if there is none. All of them are there to be read."""
        found = await self._one(connection, _NEWEST, offset=offset)
        wait = _FIRST_LOOK_SECONDS
        if found["newest"] is None or self._every is None or not found["writers"]:
            return found["newest"]
        while (await self._one(connection, _STILL_WRITES, writers=found["writers"]))["it_does"]:
            await asyncio.sleep(min(wait, self._every))
            wait *= 2
        return found["newest"]

    async def _page(self, connection: Connection, offset: JSON, newest: Any) -> list[dict[str, Any]]:
        cursor = await connection.execute(self._query(_PAGE, offset), {"offset": offset, "newest": newest})
        return await cursor.fetchall()

    async def _one(self, connection: Connection, query: str, **given: Any) -> dict[str, Any]:
        cursor = await connection.execute(self._query(query, given.get("offset")), given)
        found = await cursor.fetchone()
        assert found is not None
        return found

    def _query(self, text: str, offset: JSON) -> sql.Composed:
        options = self._options
        table, key = sql.Identifier(*options.table.split(".")), sql.Identifier(options.key)
        names = dict.fromkeys([options.key, *options.columns])
        return sql.SQL(text).format(
            name=sql.Literal(table.as_string()),
            table=table,
            key=key,
            columns=sql.SQL(", ").join(map(sql.Identifier, names)) if options.columns else sql.SQL("*"),
            behind=sql.SQL("true") if offset is None else sql.SQL("{} > %(offset)s").format(key),
            writes=sql.SQL(_WRITES),
            page=sql.Literal(options.page),
        )

    def _chosen(self, row: dict[str, Any]) -> dict[str, Any]:
        columns = self._options.columns
        return {name: row[name] for name in columns} if columns else row


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
