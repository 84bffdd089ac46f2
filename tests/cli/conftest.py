"""Every test here starts in an empty folder, without settings from outside and without a server to find."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from engine.cli import program
from tests.cli.process import Program

NOBODY = "127.0.0.1:1"  # nothing listens there


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("ENGINE_", "EXECGO_")) and not name.startswith("ENGINE_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ENGINE_ADDR", NOBODY)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call() -> Callable[..., Result]:
    """Runs a command in this process."""

    def run(*arguments: str, text: str | bytes | None = None) -> Result:
        return CliRunner().invoke(program, arguments, input=text, prog_name="task-engine")

    return run


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Starts commands as processes; whatever still runs at the end of the test is killed."""
    started: list[Program] = []

    def run(*arguments: str, **options: object) -> Program:
        started.append(Program(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield run
    for process in started:
        process.close()


@pytest.fixture(params=["server", "database"])
def target(request: pytest.FixtureRequest, start: Callable[..., Program]) -> Iterator[list[str]]:
    """The flags that lead to a running engine: over REST, or straight into a shared SQLite file."""
    server = start("server", "start", "--port", "0", "--shared")
    url = server.event("server.started")["url"]
    yield ["--server", url] if request.param == "server" else ["--data-dir", "data"]


@pytest.fixture
def on(call: Callable[..., Result], target: list[str]) -> Callable[..., Any]:
    """The JSON that a command prints on the target."""

    def run(*arguments: str, code: int = 0, text: str | None = None) -> Any:
        result = call(*arguments, "--json", *target, text=text)
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)

    return run
