"""The collector example: every reading is in the table once, over a connection that is lost on the way."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

import engine
from tests.examples.loading import EXAMPLES, example, program
from tests.worker.bench import until

pytestmark = pytest.mark.anyio

_START = datetime(2026, 1, 1, tzinfo=UTC)
_READINGS = 250
_AT_FIRST = 120  # then the server closes the connection


@pytest.fixture
def target(database_url: str) -> Iterator[sa.Engine]:
    opened: sa.Engine = example("stream_collector").open_target(database_url)
    yield opened
    opened.dispose()


def line(number: int) -> bytes:
    reading = {"sensor": f"s{number % 3}", "at": _START + timedelta(seconds=number), "celsius": number / 10}
    return json.dumps(reading, default=str).encode() + b"\n"


@asynccontextmanager
async def sensors() -> AsyncIterator[str]:
    """A server that sends the first part, hangs up, and sends the rest to whoever comes back."""
    parts = iter([range(_AT_FIRST), range(_AT_FIRST, _READINGS)])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for number in (part := next(parts, range(0))):
            writer.write(line(number))
        await writer.drain()
        if part.start:
            await reader.read()  # until the other side closes
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.close()


def stored(target: sa.Engine) -> list[tuple[str, float]]:
    with target.connect() as connection:
        if not sa.inspect(connection).has_table("reading"):
            return []
        found = connection.execute(sa.text("SELECT sensor, celsius FROM reading ORDER BY at"))
        return [(row.sensor, round(row.celsius, 1)) for row in found]


async def test_every_reading_is_in_the_table_once(target: sa.Engine) -> None:
    collecting = example("stream_collector")
    async with (
        sensors() as address,
        engine.Engine("sqlite://", functions=collecting.FUNCTIONS, services={"target": target}) as e,
    ):
        flow = collecting.collector(address, batch_size=20, flush_seconds=0.05)
        run_id = (await e.execute(flow)).run_id
        await until(lambda: len(stored(target)) == _READINGS, seconds=60)
        await e.cancel(run_id, reason="enough")
        assert (await e.wait(run_id, timeout=30)).state == "cancelled"
        kinds = {event.kind for event in await e.events(run_id)}
    assert stored(target) == [(f"s{number % 3}", number / 10) for number in range(_READINGS)]
    assert {"stream.connection.lost", "stream.connection.restored"} <= kinds


async def test_the_program_collects_as_long_as_it_is_told(target: sa.Engine, tmp_path: Path) -> None:
    async with sensors() as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", program("stream_collector"), address, "--seconds", "2"),
            *("--target", target.url.render_as_string(hide_password=False)),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, complained = await asyncio.wait_for(process.communicate(), 90)
    assert (process.returncode, complained) == (0, b"")
    shown = ast.literal_eval(said.decode())
    assert shown["state"] == "stopped"
    assert shown["processed_events"] == len(stored(target)) > 0


def test_the_readme_names_options_that_there_are() -> None:
    named = set(re.findall(r" (--[a-z]+)", (EXAMPLES / "stream_collector" / "README.md").read_text()))
    assert named <= set(re.findall(r'"(--[a-z]+)"', Path(program("stream_collector")).read_text()))
