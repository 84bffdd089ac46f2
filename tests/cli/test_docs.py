"""What README.md and docs/cli.md tell people to type works as it stands."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

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
BODY = re.compile(r"curl -s localhost:8080/tasks -d '(.*?)'", re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def typed() -> list[str]:
    """Every `task-engine …` of a shell block, and those in running text that are complete."""
    lines = [
        line
        for text in (README, COMMANDS_PAGE)
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
