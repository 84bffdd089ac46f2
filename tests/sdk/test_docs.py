"""The examples of docs/sdk.md run as they stand, and its table of errors is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.cli.process import Program
from tests.sdk.callers import libpq
from tests.sdk.test_import import error_names

PAGE = Path(__file__).resolve().parents[2] / "docs" / "sdk.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    """A server of its own, with a worker and a database file."""
    address = ("--addr", "127.0.0.1:0")
    server = Program("server", "start", *address, "--db", f"sqlite:///{tmp_path / 'server.db'}")
    yield str(server.event("server.started")["url"])
    server.close()


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example(number: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    environment = dict(os.environ)
    if "DATABASE_URL" in EXAMPLES[number]:
        environment["DATABASE_URL"] = libpq(sa.make_url(request.getfixturevalue("row_locking_url")))
    if "ENGINE_SERVER" in EXAMPLES[number]:
        environment["ENGINE_SERVER"] = request.getfixturevalue("server_url")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[number]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_error_is_explained() -> None:
    table = PAGE.read_text().split("\n## Errors\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", table)) == error_names() - {"EngineError"}
