"""What docs/expressions.md says is so: every row of its tables, and its program."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ExpressionError, InvalidExpression
from engine.expressions import child, evaluator, syntax
from engine.expressions.checks import check
from engine.expressions.evaluator import Evaluator
from engine.model.json import JSON, MAX_DEPTH

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "expressions.md").read_text()
CONTEXT = json.loads(re.findall(r"^```json\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0])
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def rows(head: str) -> list[tuple[str, str]]:
    """First and second cell of the tables with that head, pipes unescaped."""
    found = []
    for table in re.findall(rf"^\| {re.escape(head)} \|.*\n\| ---.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        for line in table.splitlines():
            cells = [cell.replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.append((cells[0].strip().strip("`"), cells[1].strip()))
    return found


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


VALUES = rows("expression | gives")
ERRORS = [row for row in rows("expression | error") if row[1] in section("Errors when an expression runs")]
REFUSALS = [row for row in rows("expression | error") if row not in ERRORS]
CONDITIONS = rows("condition | error")


def test_the_tables_are_found() -> None:
    assert [len(VALUES), len(ERRORS), len(REFUSALS), len(CONDITIONS)] == [37, 21, 8, 2]


@pytest.mark.parametrize(("text", "expected"), VALUES)
async def test_value(evaluator: Evaluator, text: str, expected: str) -> None:
    check(text, names=["params", "tasks"])
    value: JSON = await evaluator.evaluate(text, CONTEXT)
    assert json.dumps(value) == json.dumps(json.loads(expected.strip("`")))  # tells 2 from 2.0, and orders


@pytest.mark.parametrize(("text", "expected"), ERRORS)
async def test_error(evaluator: Evaluator, text: str, expected: str) -> None:
    check(text, names=["params", "tasks"])
    with pytest.raises(ExpressionError) as raised:
        await evaluator.evaluate(text, CONTEXT)
    assert str(raised.value) == expected


@pytest.mark.parametrize(("text", "expected"), CONDITIONS)
async def test_condition(evaluator: Evaluator, text: str, expected: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        await evaluator.condition(text, CONTEXT)
    assert str(raised.value) == expected


@pytest.mark.parametrize(("text", "expected"), REFUSALS)
def test_refusal(text: str, expected: str) -> None:
    with pytest.raises(InvalidExpression) as raised:
        check(text, names=["params", "tasks"])
    assert str(raised.value) == expected


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_limits() -> None:
    table = section("Limits").replace(" ", "").replace("1MiB", "1048576").replace("8MiB", "8388608")
    for limit in (
        syntax.MAX_CHARACTERS,
        syntax.MAX_NODES,
        syntax.MAX_DEPTH,
        evaluator.MAX_CONTEXT_BYTES,
        child.MAX_RESULT_BYTES,
        child.MAX_VALUES,
        MAX_DEPTH,
    ):
        assert re.search(rf"(?<!\d){limit}(?!\d)", table), limit
