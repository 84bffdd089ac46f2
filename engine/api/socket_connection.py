"""One WebSocket connection: uvicorn's protocol on `websockets`, with the limits that it lacks.

Clients only listen. What they send is checked, counted and dropped; pings are answered. Whoever sends too
much, or what is no WebSocket, is told why in a close frame. Nobody is waited for: a connection that has been
closed is cut a moment later, whether its client reads or not.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_MESSAGE_BYTES = 64 * 1024
MAX_FRAMES = 1_000  # of all kinds that a client may send within `_FRAMES_SECONDS`
PONG_SECONDS = 20.0
_FRAMES_SECONDS = 60.0
_LINGER_SECONDS = 2.0  # for the client to read why, and to close
_RESTART, _BAD_TEXT, _POLICY, _DEAD = 1012, 1007, 1008, 1011


class SocketConnection(WebSocketsSansIOProtocol):
    _has_failed = False
    _frames_since = 0.0
    _frame_count = 0

    # --- reading

    def data_received(self, data: bytes) -> None:
        if self._has_failed:
            return
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None:
            self._answer(HTTPStatus.BAD_REQUEST, "this is no WebSocket handshake")

    def handle_events(self) -> None:
        if self.handshake_complete and not self.close_sent and self._are_too_many(len(self.conn.events)):
            self._fail(_POLICY, f"more than {MAX_FRAMES} frames within a minute")
            return
        super().handle_events()

    def _are_too_many(self, frames: int) -> bool:
        now = self.loop.time()
        if now - self._frames_since > _FRAMES_SECONDS:
            self._frames_since, self._frame_count = now, 0
        self._frame_count += frames
        return self._frame_count > MAX_FRAMES

    def send_receive_event_to_app(self) -> None:
        """A whole message has arrived."""
        data, self.frames = b"".join(self.frames), []
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                data.decode()
            except UnicodeDecodeError:
                self._fail(_BAD_TEXT, "a text message must be UTF-8")

    def handle_parser_exception(self) -> None:
        """The frame is no frame, or too large; `conn` has already written why."""
        if self.handshake_complete:
            self._end()
        else:
            self._answer(HTTPStatus.BAD_REQUEST, "frames came before the handshake was over")

    # --- writing

    def pause_writing(self) -> None:
        super().pause_writing()
        if not (self.read_paused or self.transport.is_closing()):
            self.read_paused = True
            self.transport.pause_reading()  # or pongs for a flood of pings would pile up

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    # --- the end

    def keepalive_timeout(self) -> None:
        self.pong_timer = None
        self._fail(_DEAD, "no pong came")

    def shutdown(self) -> None:
        """The server stops."""
        if self.close_sent:
            self._abort_soon()
        elif self.handshake_complete:
            self._fail(_RESTART, "the server stops")
        else:
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "the server stops")

    async def send(self, message: Any) -> None:
        kind = message["type"]
        if self._has_failed:
            raise ClientDisconnected
        if kind == "websocket.close" and self.handshake_complete:
            self._close(message.get("code", 1000), message.get("reason") or "")
            return
        await super().send(message)
        if kind == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # as far as uvicorn is concerned
            self._abort_soon()

    async def receive(self) -> Any:
        return await self.queue.get()  # reading goes on whether anybody asks or not

    def _close(self, code: int, reason: str) -> None:
        """Does not wait until the client has read what was sent before, as uvicorn would."""
        if self.close_sent or self.transport.is_closing():
            return
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self._abort_soon()

    def _answer(self, status: HTTPStatus, text: str) -> None:
        """Refuse the handshake, unless the application has."""
        if self.initial_response is not None or self.handshake_complete:
            return
        self.handshake_complete = True
        self.transport.write(self.conn.reject(status, text + "\n").serialize())
        self._end()

    def _fail(self, code: int, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.fail(code, reason)
        self._end()

    def _end(self) -> None:
        """Send what `conn` has to say, and take nothing more from the client."""
        if self._has_failed:
            return
        self._has_failed = self.close_sent = True
        self.stop_keepalive()
        sent = self.conn.close_sent
        code, reason = (1006, "") if sent is None else (sent.code, sent.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._abort_soon()

    def _abort_soon(self) -> None:
        """With what the client sent still unread, closing at once would take back what we wrote."""
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)
