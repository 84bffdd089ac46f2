"""Lines that a TCP server sends: one item each."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from engine.errors import InvalidInput
from engine.model.json import JSON
from engine.streams.ports import Network
from engine.streams.sources import Connected, Item, Options, Reads, from_message

MAX_LINE_BYTES = 1024 * 1024
CONNECT_SECONDS = 10.0
# A server that is cut off is noticed in seconds, as far as the platform has the option.
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}


class TcpOptions(Options):
    """`send` is written once the connection stands: what the server waits for before it sends anything."""

    send: str | None = None


class TcpSource:
    """`url` is `tcp://host:port` or `host:port`. With `ends`, the source is over when the connection is.

    Otherwise that is a loss, and a line that was cut off with the connection is none.
    """

    protocol = "tcp"
    replayable = False

    def __init__(self, url: str, options: TcpOptions, network: Network, *, ends: bool) -> None:
        """Raises `InvalidInput` for a URL that is no such address."""
        self._host, self._port = _address(url)
        self._options = options
        self._network = network
        self._ends = ends
        self.name = self.endpoint = f"tcp://{self._host}:{self._port}"

    async def items(self, offset: JSON, /) -> Reads:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await self._open()
        try:
            _keep_alive(writer)
            yield Connected()
            if self._options.send is not None:
                writer.write(self._options.send.encode())
                await writer.drain()
            while line := await reader.readline():
                is_whole = self._ends or line.endswith(b"\n")
                if is_whole and (content := line.strip(b"\r\n")):
                    yield Item(from_message(content))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        if not self._ends:
            raise ConnectionError("the other side closed the connection")

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        *others, last = await self._network.addresses(self._host, self._port)
        for address in others:
            with suppress(OSError):
                return await asyncio.open_connection(address, self._port, limit=MAX_LINE_BYTES)
        return await asyncio.open_connection(last, self._port, limit=MAX_LINE_BYTES)


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _address(url: str) -> tuple[str, int]:
    text = url if "://" in url else f"tcp://{url}"
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port or parts.scheme != "tcp":
        raise InvalidInput(f"endpoint.url: expected tcp://host:port, got {url!r:.200}")
    return host, port
