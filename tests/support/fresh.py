"""Fixtures for those to whom it matters whether a database has served another test: `import` them.

Plans depend on statistics, which stay; counts of calls on the ids that this process has in stock.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.template import Template


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new database with our schema, one of each kind."""
    if request.param == "postgres":
        template: Template = request.getfixturevalue("template")
        with template.clone() as url:
            yield url
        return
    path = tmp_path / "engine.db"
    shutil.copyfile(request.getfixturevalue("empty_file"), path)
    yield f"sqlite:///{path}"


@pytest.fixture
def row_locking_url(template: Template) -> Iterator[str]:
    """A new Postgres database with our schema."""
    with template.clone() as url:
        yield url
