"""Connections that speak frames of their own making."""

from __future__ import annotations

import asyncio
import base64
import struct

from engine.api.access import SOCKET_ROOT
from tests.api.streams.listening import PATIENCE_SECONDS
from tests.api.test_server import Running, head_of

KEY = b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef") + b"\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"


def handshake(path: str, *, host: bytes = b"localhost", extra: bytes = KEY + VERSION) -> bytes:
    target = f"GET {SOCKET_ROOT}{path} HTTP/1.1\r\n".encode()
    return target + b"Host: " + host + b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + extra + b"\r\n"


async def shake_hands(
    server: Running, path: str, *, extra: bytes = b"", receive_bytes: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that speaks raw frames, behind the head of the answer."""
    import socket

    line = socket.socket()
    if receive_bytes is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, ("127.0.0.1", server.port))
    reader, writer = await asyncio.open_connection(sock=line, limit=receive_bytes or 65536)
    writer.write(handshake(path, extra=KEY + VERSION + extra))
    head = await reader.readuntil(b"\r\n\r\n")
    assert head_of(head) == b"HTTP/1.1 101 Switching Protocols", head
    assert b"permessage-deflate" not in head
    return reader, writer


def frame(opcode: int, payload: bytes = b"", *, first: int = 0x80, masked: bool = True) -> bytes:
    length = len(payload)
    if length < 126:
        size = bytes([length | 0x80 * masked])
    elif length < 65536:
        size = bytes([126 | 0x80 * masked]) + struct.pack("!H", length)
    else:
        size = bytes([127 | 0x80 * masked]) + struct.pack("!Q", length)
    return bytes([first | opcode]) + size + (b"\0\0\0\0" if masked else b"") + payload


async def close_code(reader: asyncio.StreamReader) -> int | None:
    """The code of the close frame; every frame before it is passed over."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                first, size = await reader.readexactly(2)
                if size == 126:
                    [size] = struct.unpack("!H", await reader.readexactly(2))
                payload = await reader.readexactly(size)
                if first & 0x0F == 8:
                    code: int = struct.unpack("!H", payload[:2])[0]
                    return code
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
