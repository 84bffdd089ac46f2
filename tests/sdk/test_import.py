"""`import engine` is what every guardian process pays for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import engine

_PROGRAM = """
import sys
import engine
heavy = {"sqlalchemy", "psycopg", "litestar", "pydantic", "alembic", "msgspec", "engine.model"}
print(sorted(heavy & set(sys.modules)))
"""


def test_the_package_by_itself_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_type_checkers_see_the_names_that_there_are_at_run_time() -> None:
    tree = ast.parse(Path(engine.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        (node.module, name.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert seen == {(home, name) for name, home in engine._HOME_OF.items()}


def test_every_name_can_be_loaded() -> None:
    for name in engine._HOME_OF:
        assert getattr(engine, name).__name__ == name
        assert name in dir(engine)
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        engine.Engin  # noqa: B018
