"""The examples of some pages of docs run as they stand; the table of errors is complete."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine.definitions import read_workflows
from engine.model.workflow_rules import check
from tests.cli.process import Program
from tests.sdk.callers import libpq
from tests.sdk.test_import import error_names

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "sdk.md"
EXAMPLES = {
    f"{page}-{number}": example
    for page in ("sdk", "workflows", "streaming")
    for number, example in enumerate(
        re.findall(r"^```python\n(.*?)^```", (DOCS / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    )
}


@pytest.fixture
def server_url(tmp_path: Path) -> Iterator[str]:
    """A server of its own, with a worker and a database file."""
    address = ("--addr", "127.0.0.1:0")
    server = Program("server", "start", *address, "--db", f"sqlite:///{tmp_path / 'server.db'}")
    yield str(server.event("server.started")["url"])
    server.close()


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    environment = dict(os.environ)
    if "DATABASE_URL" in EXAMPLES[name]:
        environment["DATABASE_URL"] = libpq(sa.make_url(request.getfixturevalue("row_locking_url")))
    if "ENGINE_SERVER" in EXAMPLES[name]:
        environment["ENGINE_SERVER"] = request.getfixturevalue("server_url")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EXAMPLES[name]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_yaml_example_can_be_saved() -> None:
    [text] = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "workflows.md").read_text(), re.DOTALL | re.MULTILINE)
    [workflow] = read_workflows(text)
    check(workflow)
    assert [task.name for task in workflow.tasks] == ["load", "price", "book", "report"]


def test_every_error_is_explained() -> None:
    table = PAGE.read_text().split("\n## Errors\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`([A-Z]\w+)`", table)) == error_names() - {"EngineError"}
