"""A database of its own for a test, of the kind that its parameter says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.template import Give


@contextmanager
def database_for(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """The URL of an empty database with our schema; a fixture whose param is `sqlite` or `postgres` asks."""
    if request.param == "postgres":
        give: Give = request.getfixturevalue("give")
        with give() as url:
            yield url
        return
    path = folder / "engine.db"
    shutil.copyfile(request.getfixturevalue("empty_file"), path)
    yield f"sqlite:///{path}"
