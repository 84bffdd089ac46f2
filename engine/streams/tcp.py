"""Lines that a TCP server sends: one item each."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit

from engine.errors import InvalidInput
from engine.model.json import JSON
from engine.streams.ports import Network
from engine.streams.sources import Connected, Item, Options, Reads, from_message

MAX_LINE_BYTES = 1024 * 1024
CONNECT_SECONDS = 10.0


class TcpOptions(Options):
    """`send` is written once the connection stands: what the server waits for before it sends anything."""

    send: str | None = None


class TcpSource:
    """`url` is `tcp://host:port` or `host:port`. With `ends`, the source is over when the connection is."""

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
            yield Connected()
            if self._options.send is not None:
                writer.write(self._options.send.encode())
                await writer.drain()
            while line := await reader.readline():
                if content := line.strip(b"\r\n"):
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
