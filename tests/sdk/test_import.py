"""`import engine` is what every guardian process pays for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import engine
from engine import client, errors

_PROGRAM = """
import sys
import engine
import engine.client
heavy = {"sqlalchemy", "psycopg", "litestar", "pydantic", "alembic", "msgspec", "httpx", "engine.model"}
print(sorted(heavy & set(sys.modules)))
"""
_MODULES = """
import engine
print(engine.errors.NotFound.__name__, engine.client.Client.__name__, engine.testing.run_graph.__name__)
"""


def printed(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def error_names() -> set[str]:
    found = (thing for thing in vars(errors).values() if isinstance(thing, type))
    return {thing.__name__ for thing in found if issubclass(thing, errors.EngineError)}


def names_for_type_checkers(module: ModuleType) -> set[tuple[str | None, str | None]]:
    """Pairs of (home, name) that a package imports if `TYPE_CHECKING`."""
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {(node.module, name.asname) for node in imports for name in node.names}


def exported(package: Any) -> set[tuple[str, str]]:
    """Pairs of (home, name) at run time."""
    return {(home, name) for home, names in package._HOMES.items() for name in names}


def test_the_packages_by_themselves_load_nothing_heavy() -> None:
    assert printed(_PROGRAM) == "[]\n"


def test_public_modules_need_no_import_of_their_own() -> None:
    assert printed(_MODULES) == "NotFound Client run_graph\n"


def test_every_error_is_exported() -> None:
    assert set(engine._HOMES["engine.errors"]) == error_names()


def test_type_checkers_see_the_names_that_there_are_at_run_time() -> None:
    modules = {("engine", name) for name in engine._MODULES}
    assert names_for_type_checkers(engine) == exported(engine) | modules
    assert names_for_type_checkers(client) == exported(client)


@pytest.mark.parametrize("package", [engine, client])
def test_every_name_can_be_loaded(package: Any) -> None:
    for _, name in exported(package):
        assert getattr(package, name).__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no attribute 'Engin'"):
        package.Engin  # noqa: B018


def test_a_star_imports_every_name() -> None:
    assert (
        printed("from engine import *; print(Engine.__name__, errors.__name__)") == "Engine engine.errors\n"
    )
    assert sorted(engine.__all__) == sorted({name for _, name in exported(engine)} | {*engine._MODULES})
