"""What README.md and docs/cli.md tell people to type works as it stands."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
import sqlalchemy as sa
from click.testing import Result

from engine.cli import COMMANDS
from engine.store.dialects import parse_url
from tests.cli.process import Program

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS_PAGE = (ROOT / "docs" / "cli.md").read_text()
STREAMING_PAGE = (ROOT / "docs" / "streaming.md").read_text()
BODY = re.compile(r"curl -s localhost:8080/tasks -d '(.*?)'", re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def typed() -> list[str]:
    """Every `task-engine …` of a shell block, and those in running text that are complete."""
    lines = [
        line
        for text in (README, COMMANDS_PAGE, STREAMING_PAGE)
        for block in blocks(text, "bash")
        for line in block.splitlines()
    ]
    calls = [re.split(r" [|#] |\s{2,}#", line)[-1 if "| task-engine" in line else 0] for line in lines]
    inline = re.findall(r"`(task-engine (?:runs|db|token|doctor)[^`]*)`", README)
    return sorted({call.strip() for call in [*calls, *inline] if call.strip().startswith("task-engine ")})


@pytest.mark.parametrize("line", typed())
def test_a_command_is_written_as_it_is_understood(line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command: click.Command = getattr(importlib.import_module(COMMANDS[name][0]), name)
    while isinstance(command, click.Group):
        command = command.commands[arguments.pop(0)]
    command.make_context(name, arguments)  # raises a usage error


def test_the_tour_of_the_readme(start: Callable[..., Program], call: Callable[..., Result]) -> None:
    url = start("server", "start", "--port", "0").event("server.started")["url"]
    for body in BODY.findall(README):
        assert httpx.post(f"{url}/tasks", content=body).status_code == 202
    assert call("task", "wait", "count", "--server", url).exit_code == 0
    assert httpx.get(f"{url}/tasks/count").json()["result"]["stdout"].startswith("5 ")
    for command in (("list",), ("show", "1"), ("watch", "1"), ("logs", "1")):
        assert call("runs", *command, "--server", url).exit_code == 0


def test_the_submit_in_a_transaction_of_the_readme(call: Callable[..., Result]) -> None:
    assert call("db", "upgrade", "--db", "sqlite:///engine.db").exit_code == 0
    [example] = blocks(README, "python")
    own = sa.create_engine("sqlite:///engine.db")
    exec(example, {"sqlalchemy_engine": own, "insert_order": lambda connection: 7})
    own.dispose()
    listed = call("runs", "list", "--json", "--db", "sqlite:///engine.db")
    assert [run["state"] for run in json.loads(listed.stdout)] == ["pending"]


def test_the_report_of_the_readme(call: Callable[..., Result], database_url: str) -> None:
    Path("graph.json").write_text('{"tasks": [{"name": "a", "kind": "noop"}]}')
    assert call("run", "graph.json", "--db", database_url).exit_code == 0
    [report] = blocks(README, "sql")
    own = sa.create_engine(parse_url(database_url))
    with own.connect() as connection:
        [row] = connection.exec_driver_sql(report).all()
    own.dispose()
    assert tuple(row[:3]) == ("noop", "succeeded", 1)


class _Sensors(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        if self.rfile.readline() == b"subscribe\n":
            self.wfile.write(b'{"celsius": 20.5}\n' * 60)
        self.rfile.read()  # until the other side closes


@contextmanager
def sensors() -> Iterator[str]:
    """A server that sends 60 readings to whoever subscribes."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Sensors) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()


def curl(line: str, url: str) -> httpx.Response:
    """What a line with curl asks, asked at `url`."""
    words = iter(shlex.split(line.replace("localhost:8080", url))[2:])
    method, address, headers, content = "GET", "", {}, None
    for word in words:
        match word:
            case "-X":
                method = next(words)
            case "-H":
                headers.update([next(words).split(": ")])
            case "--data-binary":
                method, content = "POST", Path(next(words).removeprefix("@")).read_bytes()
            case _:
                address = word
    return httpx.request(method, address, headers=headers, content=content)


def test_the_streaming_workflow_in_yaml(start: Callable[..., Program], call: Callable[..., Result]) -> None:
    by_command, by_rest = (block.splitlines() for block in blocks(STREAMING_PAGE, "bash"))
    [text], module = blocks(STREAMING_PAGE, "yaml"), blocks(STREAMING_PAGE, "python")[-1]
    Path("sensors.py").write_text(module)
    with sensors() as address:
        Path("sensors.yaml").write_text(text.replace("sensors.example:7001", address))
        server = start(*shlex.split(by_command[0])[1:], "--port", "0")
        url = server.event("server.started")["url"]

        def command(line: str) -> None:
            at = [] if "validate" in line else ["--server", url]
            done = call(*shlex.split(line)[1:], *at)
            assert done.exit_code == 0, done.output

        for line in by_command[1:4]:
            command(line)
        deadline = time.monotonic() + 30
        while (stream := of_first_task(url)).get("processed_events") != 60:
            assert time.monotonic() < deadline, stream
            time.sleep(0.05)
        for line in by_command[4:]:
            command(line)
        for line in by_rest:  # which execute it once more
            assert curl(line.replace("instances/1", "instances/2"), url).is_success, line
        assert "data.batched" in call("instance", "logs", "1", "--server", url).stdout


def of_first_task(url: str) -> dict[str, Any]:
    [task] = httpx.get(f"{url}/api/v1/instances/1/tasks").json()["data"]
    return task.get("stream") or {}
