"""What clients send: frames and handshakes of all kinds."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import pytest

from engine.store.database import Database
from tests.api.streams.frames import KEY, VERSION, close_code, frame, handshake, shake_hands
from tests.api.streams.listening import (
    PATIENCE_SECONDS,
    everything,
    listening,
    start,
    told,
    work,
)
from tests.api.test_server import HOST, Running, running

pytestmark = pytest.mark.anyio


TEXT, BINARY, CONTINUED, PING, PONG = 1, 2, 0, 9, 10
BAD = {
    "too large, declared": (b"\x81\xff" + struct.pack("!Q", 17 * 2**20) + b"\0\0\0\0", 1009),
    "too large, sent": (frame(BINARY, b"x" * 70_000) + b"x" * 1_000_000, 1009),
    "too large in fragments": (
        frame(TEXT, b"x" * 40_000, first=0) + frame(CONTINUED, b"x" * 40_000, first=0),
        1009,
    ),
    "fragments without end": (
        frame(TEXT, b"", first=0) + frame(CONTINUED, b"", first=0) * 3_000,
        1008,
    ),
    "a million tiny frames": (frame(TEXT, b"x") * 200_000, 1008),
    "a flood of pings": (frame(PING, b"x" * 100) * 5_000, 1008),
    "not UTF-8": (frame(TEXT, b"\xff\xfe"), 1007),
    "half a character in fragments": (
        frame(TEXT, b"\xc3", first=0) + frame(CONTINUED, b"x"),
        1007,
    ),
    "not masked": (frame(TEXT, b"hello", masked=False), 1002),
    "compressed": (frame(TEXT, b"hello", first=0xC0), 1002),
    "unknown opcode": (frame(5), 1002),
    "a continuation of nothing": (frame(CONTINUED), 1002),
    "a ping in fragments": (frame(PING, first=0), 1002),
    "a close of one byte": (frame(8, b"x"), 1002),
    "a close with a bad code": (frame(8, struct.pack("!H", 999)), 1002),
    "HTTP": (b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n", 1002),
}


@pytest.mark.parametrize(("sent", "code"), BAD.values(), ids=BAD.keys())
async def test_bad_frames_are_answered_with_a_code(
    database: Database, server: Running, caplog: pytest.LogCaptureFixture, sent: bytes, code: int
) -> None:
    run_id = await start(database)
    extra = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    reader, writer = await shake_hands(server, f"instances/{run_id}", extra=extra)
    try:
        for begin in range(0, len(sent), 16_384):
            writer.write(sent[begin : begin + 16_384])
            await writer.drain()
    except ConnectionResetError:
        pass
    assert await close_code(reader) == code
    writer.close()
    async with listening(server, f"instances/{run_id}") as socket:  # nobody else noticed
        await told(socket)
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


async def test_what_clients_say_is_ignored(database: Database, server: Running) -> None:
    run_id = await start(database)
    async with listening(server, f"instances/{run_id}") as socket:
        await told(socket)
        for message in ("{}", b"\0\xff", "x" * 60_000, '{"op": "subscribe", "after": -1}'):
            await socket.send(message)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await (await socket.ping())
        await work(database)
        assert (await everything(socket))[1] == 1000


BROKEN = {
    "no key": (VERSION, b"400"),
    "a bad key": (VERSION + b"Sec-WebSocket-Key: x\r\n", b"400"),
    "no version": (KEY, b"400"),
    "another version": (KEY + b"Sec-WebSocket-Version: 12\r\n", b"400"),
    "a long header": (KEY + VERSION + b"A: " + b"x" * 9_000 + b"\r\n", b"431"),
    "many headers": (KEY + VERSION + b"".join(b"A%d: b\r\n" % n for n in range(150)), b"431"),
    "a body": (KEY + VERSION + b"Content-Length: 5\r\n", b"400"),
    "a bad subprotocol": (KEY + VERSION + b"Sec-WebSocket-Protocol: ,;\r\n", b"400"),
    "bytes in a header": (KEY + VERSION + b"A: \xff\xfe\r\n", b"101"),
}


@pytest.mark.parametrize(("extra", "status"), BROKEN.values(), ids=BROKEN.keys())
async def test_broken_handshakes_are_answered(
    database: Database, server: Running, caplog: pytest.LogCaptureFixture, extra: bytes, status: bytes
) -> None:
    run_id = await start(database)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(handshake(f"instances/{run_id}", extra=extra))
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.readline()).split(b" ")[1] == status
    finally:
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]


async def test_frames_before_the_answer_do_no_harm(
    database: Database, server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = await start(database)
    for early in (frame(TEXT, b"hello"), frame(5), b"\0" * 100_000):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake(f"instances/{run_id}") + early)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert (await reader.readline()).split(b" ")[1] in (b"101", b"400")
        writer.close()
    assert not [record for record in caplog.records if record.exc_info]


async def test_silent_clients_are_pinged_and_given_up(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.api.server.PONG_SECONDS", 0.2)
    run_id = await start(database)
    async with (
        running(database, tmp_path, ping_seconds=0.1) as server,
        listening(server, f"instances/{run_id}") as socket,
    ):
        await told(socket)
        reader, writer = await shake_hands(server, f"instances/{run_id}")
        assert await close_code(reader) == 1011  # it never answered
        writer.close()
        await work(database)  # this one did
        assert (await everything(socket))[1] == 1000
