"""Real TCP and WebSocket servers that count, on each connection anew, to whoever listens."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

_SECONDS = 0.002  # between items
_CUT_AFTER = 3_000  # items at most; then the server itself cuts the connection

Send = Callable[[str], Awaitable[None]]


class Feeds:
    """Each item is `[connection, number]`, both from 1 on. `tcp` and `ws` are their URLs."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._is_quiet = False
        self._stopping = asyncio.Event()
        self.connections = {"tcp": 0, "ws": 0}
        self.tcp = self.ws = ""

    def be_quiet(self) -> None:
        """Connections stay, and nothing is sent any more."""
        self._is_quiet = True

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, started: threading.Event) -> None:
        tcp = await asyncio.start_server(self._serve_tcp, "127.0.0.1", 0)
        async with tcp, serve(self._serve_web_socket, "127.0.0.1", 0) as ws:
            self.tcp = f"tcp://127.0.0.1:{tcp.sockets[0].getsockname()[1]}"
            self.ws = f"ws://127.0.0.1:{next(iter(ws.sockets)).getsockname()[1]}"
            started.set()
            await self._stopping.wait()

    async def _serve_tcp(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(text: str) -> None:
            writer.write(f"{text}\n".encode())
            await writer.drain()

        with suppress(ConnectionError):
            await self._count("tcp", send)
        writer.transport.abort()

    async def _serve_web_socket(self, connection: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await self._count("ws", connection.send)
        connection.transport.abort()

    async def _count(self, feed: str, send: Send) -> None:
        self.connections[feed] += 1
        connection = self.connections[feed]
        for number in range(1, self._dice.randint(_CUT_AFTER // 3, _CUT_AFTER)):
            if self._is_quiet:
                await self._stopping.wait()
                return
            await send(json.dumps([connection, number]))
            await asyncio.sleep(_SECONDS)


@contextmanager
def feeding(seed: int) -> Iterator[Feeds]:
    """Servers in a thread of their own."""
    feeds, started = Feeds(seed), threading.Event()
    loop = asyncio.new_event_loop()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(feeds.run(started))

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(10)
    try:
        yield feeds
    finally:
        loop.call_soon_threadsafe(feeds.stop)
        thread.join(10)
        assert not thread.is_alive()
