"""Messages of a WebSocket: one item each."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field
from websockets.asyncio.client import ClientConnection, connect

from engine.errors import InvalidInput
from engine.model.json import JSON
from engine.streams.ports import Network
from engine.streams.sources import Connected, Item, Options, Reads, from_message

MAX_MESSAGE_BYTES = 1024 * 1024
_PORTS = {"ws": 80, "wss": 443}
_CLOSE_SECONDS = 1.0  # for the other side to say goodbye
_QUEUE = 16  # messages that the library reads ahead; then the other side has to wait


class WebSocketOptions(Options):
    """`send` are messages for the server once the connection stands, such as subscriptions."""

    headers: dict[str, str] = Field({})
    send: list[str] = Field([])


class WebSocketSource:
    """With `ends`, the orderly end of the connection is that of the source."""

    replayable = False

    def __init__(self, url: str, options: WebSocketOptions, network: Network, *, ends: bool) -> None:
        """Raises `InvalidInput` for a URL that is not `ws://…` or `wss://…`."""
        self._url = url.strip()
        self._host, self._port, self.protocol = _address(self._url)
        self._options = options
        self._network = network
        self._ends = ends
        self.name = self.endpoint = f"{self.protocol}://{self._host}:{self._port}{urlsplit(self._url).path}"

    async def items(self, offset: JSON, /) -> Reads:
        async with await self._open() as connection:
            yield Connected()
            for message in self._options.send:
                await connection.send(message)
            async for content in connection:
                yield Item(from_message(content))
        if not self._ends:
            raise ConnectionError("the other side closed the connection")

    async def _open(self) -> ClientConnection:
        *others, last = await self._network.addresses(self._host, self._port)
        for address in others:
            with suppress(OSError):
                return await self._connect(address)
        return await self._connect(last)

    async def _connect(self, address: str) -> ClientConnection:
        """To this address and no other: with it given, the library follows no redirect elsewhere."""
        given: dict[str, Any] = {"host": address, "port": self._port}
        return await connect(
            self._url,
            additional_headers=self._options.headers,
            proxy=None,
            close_timeout=_CLOSE_SECONDS,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=_QUEUE,
            **given,
        )


def _address(url: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in _PORTS:
        raise InvalidInput(f"endpoint.url: expected ws://host… or wss://host…, got {url!r:.200}")
    return host, port or _PORTS[parts.scheme], parts.scheme
