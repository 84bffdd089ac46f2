"""One HTTP connection: uvicorn's protocol with the limits of time, size and number that it lacks.

A request must arrive whole within `read` seconds (against slowloris), its answer must begin within `write`
seconds, and a client must not stop reading for longer than that. A connection too many is answered with 503
and closed at once. Idle connections are uvicorn's matter.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from engine.api.access import SOCKET_ROOT
from engine.api.edge import trace_id_of

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_URL_BYTES = 16 * 1024
_SOCKET_ROOT = SOCKET_ROOT.encode()
_MAX_SOCKET_LINE_BYTES, _MAX_SOCKET_HEADERS = 8_000, 100  # `websockets` takes hardly more
_TIMEOUT, _TOO_MUCH, _TOO_LONG, _BAD, _BUSY, _LATE = 408, 431, 414, 400, 503, 504


@dataclass(frozen=True, slots=True)
class Limits:
    read_seconds: float = 15.0
    write_seconds: float = 30.0
    connections: int = 800


def protocol_with(limits: Limits) -> type[HttpToolsProtocol]:
    """A protocol class, as uvicorn wants it, that keeps `limits`."""

    class BoundConnection(Connection):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.limits = limits

    return BoundConnection


class _Refused(Exception):
    """Ends a request inside the parser, which reports it to `send_400_response`; the answer was sent."""


class _Timer:
    """Calls back once, unless it is stopped before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self._handle is not None

    def start(self, seconds: float, callback: Callable[[], None]) -> None:
        self.stop()
        self._handle = self._loop.call_later(seconds, self._fire, callback)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self, callback: Callable[[], None]) -> None:
        self._handle = None
        callback()


class Connection(HttpToolsProtocol):
    limits: Limits
    _reading: _Timer
    _writing: _Timer
    _head_bytes = 0
    _data = b""
    _is_refused = False

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _is_handling(self) -> bool:
        """A request is complete and its answer is not."""
        return bool(self.pipeline) or not (self._is_idle or self.cycle.more_body)

    # --- reading

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._reading, self._writing = _Timer(self.loop), _Timer(self.loop)
        if len(self.connections) > self.limits.connections:
            self._answer(_BUSY, f"{self.limits.connections} connections are open", "retry-after: 1\r\n")
        else:
            self._expect_request()

    def data_received(self, data: bytes) -> None:
        if self._is_refused or self.transport.is_closing():
            return
        if self._is_idle and not self._reading.is_running:
            self._expect_request()
        self._data = data
        super().data_received(data)

    # Only our WebSockets are upgraded. The parser stops behind the head of any request that asks for it,
    # whatever body it has: uvicorn's hook lets us read it again without the wish. Java sends it every time.

    def _should_upgrade(self) -> bool:
        return True

    def handle_websocket_upgrade(self) -> None:
        if not any(name == b"upgrade" for name, _ in self.headers):
            self._answer(_BAD, "this is not a proxy")  # CONNECT
            return
        if self._wants_socket:
            self._reading.stop()
            lines = (len(self.url), *(len(name) + len(value) for name, value in self.headers))
            if len(lines) > _MAX_SOCKET_HEADERS or max(lines) > _MAX_SOCKET_LINE_BYTES:
                limits = f"more than {_MAX_SOCKET_HEADERS} lines or {_MAX_SOCKET_LINE_BYTES} bytes in one"
                self._answer(_TOO_MUCH, limits)
            else:
                super().handle_websocket_upgrade()
            return
        stopped = sys.exc_info()[1]
        assert isinstance(stopped, httptools.HttpParserUpgrade)
        rest = self._data[stopped.args[0] :]
        headers = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"%b %b HTTP/1.1\r\n" % (self.scope["method"].encode(), self.url)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"".join((head, *headers, b"\r\n", rest)))

    @property
    def _wants_socket(self) -> bool:
        is_get = self.scope["method"] == "GET" and self._is_idle
        return is_get and self.url.startswith(_SOCKET_ROOT) and self._get_upgrade() == b"websocket"

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        if not self._reading.is_running:
            self._expect_request()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_URL_BYTES:
            self._refuse(_TOO_LONG, f"the URL is longer than {MAX_URL_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refuse(_TOO_MUCH, f"more than {MAX_HEADERS} headers or {MAX_HEAD_BYTES} bytes of them")

    def on_message_complete(self) -> None:
        self._reading.stop()
        super().on_message_complete()
        if self._is_handling and not self._writing.is_running:
            self._expect_answer()

    def _expect_request(self) -> None:
        self._reading.start(self.limits.read_seconds, self._read_too_long)

    def _read_too_long(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_handling or (not self._is_idle and self.flow.read_paused):
            self._expect_request()  # it is we who keep the client waiting
        elif self.scope is None or (
            self.cycle is not None and self.cycle.response_started and self.cycle.more_body
        ):
            self._close()  # nothing was asked, or the answer came before the end of the body
        else:
            self._answer(_TIMEOUT, f"the request did not arrive within {self.limits.read_seconds:g} s")

    # --- answering

    def _expect_answer(self) -> None:
        self._writing.start(self.limits.write_seconds, self._write_too_long)

    def _write_too_long(self) -> None:
        if self.transport.is_closing() or not self._is_handling:
            return
        if self.pipeline or (self.cycle.response_started and self.flow.write_paused):
            self.transport.abort()
        elif self.cycle.response_started:
            self._expect_answer()  # a long answer that flows
        else:
            limit = f"{self.limits.write_seconds:g} s"
            self._answer(_LATE, f"not done within {limit}; it may still be: look before repeating it")

    def on_response_complete(self) -> None:
        self._writing.stop()
        super().on_response_complete()
        if self.transport.is_closing():
            self._abort_later()  # closing waits for a client that may never read
        elif self._is_handling:
            self._expect_answer()  # the next pipelined request

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading.stop()
        self._writing.stop()
        super().connection_lost(exc)

    # --- refusals below the application

    def send_400_response(self, msg: str) -> None:
        if self._is_refused:
            return
        if self._is_handling:  # what came before is still answered, then the connection ends
            self._is_refused = True
            self.cycle.keep_alive = False
        else:
            self._answer(_BAD, msg)

    def _refuse(self, status: int, detail: str) -> None:
        if not self._is_handling:
            self._answer(status, detail)
        raise _Refused

    def _answer(self, status: int, detail: str, extra: str = "") -> None:
        """Write an answer of our own, unless one is under way, and close."""
        self._is_refused = True
        if self._is_idle or not self.cycle.response_started:
            body = msgspec.json.encode({"error": detail})
            head = (
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
                f"x-trace-id: {self._trace_id()}\r\n{extra}\r\n"
            )
            self.transport.write(STATUS_LINE[status] + head.encode("latin-1") + body)
        if not self._is_idle:
            self.cycle.disconnected = True  # the application's own answer comes too late
            self.cycle.message_event.set()
        self._close()

    def _trace_id(self) -> str:
        given = next((value for name, value in self.headers or [] if name == b"x-trace-id"), None)
        return trace_id_of(given).decode("latin-1")

    def _close(self) -> None:
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        self._reading.stop()
        self._writing.stop()
        if self.transport.get_write_buffer_size():
            self._writing.start(self.limits.write_seconds, self.transport.abort)
