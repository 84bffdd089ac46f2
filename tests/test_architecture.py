"""Rules about the source itself: who may import, write and name what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine import errors
from engine.model.states import mermaid
from tests.guards import GUARDS
from tests.guards.__main__ import table

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "engine"
MODULES = sorted(ENGINE.rglob("*.py"))
MAX_LINES = 500

# Where a database may be called by its name: URLs that people write, and the guardian's tiny connection.
NAMES_ALLOWED = (
    "store/dialects",
    "store/beat.py",
    "store/schema.py",
    "worker/guardian.py",  # the guardian's target has fields named after what they reach
    "worker/lifeline.py",
    "settings.py",
    "settings_dsn.py",
    "cli",
    "sdk",
    "testing",
    "client",
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ENGINE))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstrings(tree: ast.Module) -> set[ast.AST]:
    """The expressions that are docstrings, of the module and of all that it defines."""
    holders = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, holders) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            assert isinstance(first, ast.Expr)
            found.add(first.value)
    return found


def texts(tree: ast.Module) -> Iterator[str]:
    """String constants that are no docstrings."""
    excluded = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in excluded:
            yield node.value


def test_imports_go_one_way() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def state_writers(path: Path) -> set[str]:
    """Functions of a module in which an UPDATE sets `state`, with `values(state=…)` or in SQL text."""
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef)]
    return {function.name for function in functions if any(map(_writes_state, ast.walk(function)))}


def _writes_state(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(attr="values"), keywords=keywords):
            return any(keyword.arg == "state" for keyword in keywords)
        case ast.Constant(value=str(text)):
            return re.search(r"UPDATE\s+task_state", text, re.IGNORECASE) is not None
        case _:
            return False


def test_a_task_s_state_is_written_by_move_and_by_claim_alone() -> None:
    writers = {(name_of(path), name) for path in MODULES for name in state_writers(path)}
    moves = ("store/moves.py", "move"), ("store/moves.py", "release")
    assert writers == {*moves, ("store/claims.py", "_lease")}


def test_a_new_task_s_state_is_written_where_graphs_are() -> None:
    inserters = {
        name_of(path)
        for path in MODULES
        if re.search(r"insert\(task_state\)|insert_rows\(tx, task_state", path.read_text())
    }
    assert inserters == {"store/submits.py"}


def test_databases_are_named_in_their_dialects_only() -> None:
    named: set[str] = set()
    for path in MODULES:
        if name_of(path).startswith(NAMES_ALLOWED):
            continue
        if any(re.search(r"postgres|sqlite|psycopg", text, re.IGNORECASE) for text in texts(tree_of(path))):
            named.add(name_of(path))
    assert named == set()


def test_nobody_asks_which_database_it_is() -> None:
    asking = {
        name_of(path)
        for path in MODULES
        if not name_of(path).startswith("store/dialects")
        and re.search(r"dialect\.name\b|isinstance\([^)]*(Postgres|Sqlite)Dialect", path.read_text())
    }
    assert asking == set()


def test_the_readme_shows_the_state_machine_as_it_is() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = re.findall(r"```mermaid\n(.*?)```", readme, re.DOTALL)
    assert mermaid() in [diagram.strip() for diagram in shown]


def error_classes() -> dict[str, type[errors.EngineError]]:
    return {
        name: thing
        for name, thing in vars(errors).items()
        if isinstance(thing, type) and issubclass(thing, errors.EngineError)
    }


def test_every_error_stands_in_the_tree_below_its_base() -> None:
    documented: dict[str, str] = {}
    above: dict[int, str] = {-1: ""}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)([A-Z]\w+)(\s|$)", line):
            depth = len(found[1]) // 4
            if found[2] in error_classes():
                documented[found[2]] = above.get(depth - 1, "")
                above[depth] = found[2]
    expected = {name: kind.__base__.__name__ for name, kind in error_classes().items() if kind.__base__}
    assert documented == {**expected, "EngineError": ""}


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in error_classes().values()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_is_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_LINES, "look for the second topic inside"
    assert name_of(path) == "__main__.py" or ast.get_docstring(ast.parse(text)), "says what it holds"


def test_every_package_says_what_it_is() -> None:
    silent = [
        name_of(path) for path in MODULES if path.name == "__init__.py" and not path.read_text().strip()
    ]
    assert silent == []


def test_the_store_never_commits() -> None:
    """`Database` ends them through its pipeline, `migrate` those of schemas; all others take part."""
    committing = {
        name_of(path)
        for path in ENGINE.glob("store/**/*.py")
        if re.search(r"\.(commit|rollback)\(\)", path.read_text())
    }
    assert committing <= {"store/database.py", "store/prepared.py", "store/migrate.py"} | {
        name_of(path) for path in ENGINE.glob("store/dialects/*.py")
    }


def test_the_list_of_guards_is_the_one_that_is_tried() -> None:
    listed = (ROOT / "docs" / "guards.md").read_text()
    assert table() in listed, "write the output of `python -m tests.guards --table` into docs/guards.md"


def test_each_guard_is_still_in_its_place() -> None:
    for guard in GUARDS:
        file, _, name = guard.test.partition("::")
        assert (ROOT / guard.file).read_text().count(guard.old) == 1, guard.name
        assert f"def {name}(" in (ROOT / file).read_text(), guard.name
