"""The ETL example: what is in the table and in the report, counted again from the file."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from engine.testing import Harness, run_workflow
from tests.examples.loading import EXAMPLES, example, program

pytestmark = pytest.mark.anyio

ORDERS = EXAMPLES / "etl" / "orders.csv"
_RATES = {"EUR": Fraction(1), "GBP": Fraction(117, 100), "CHF": Fraction(105, 100), "USD": Fraction(92, 100)}
_BAD = {18, 42, 78, 99, 124, 161, 189, 202, 203, 231, 267, 302, 334, 351}  # lines of the file, seen by eye


@pytest.fixture
def target(database_url: str) -> Iterator[sa.Engine]:
    opened: sa.Engine = example("etl").open_target(database_url)
    yield opened
    opened.dispose()


def orders_in_the_file() -> list[tuple[str, str, int]]:
    """(id, month, cents) of the lines that are right."""
    with ORDERS.open(newline="") as file:
        lines = [row for line, row in enumerate(csv.reader(file), 1) if line > 1 and line not in _BAD]
    found = []
    for order_id, at, _, _, _, quantity, price, currency in lines:
        month = f"{datetime.fromisoformat(at):%Y-%m}"
        found.append((order_id, month, round(Fraction(price) * int(quantity) * _RATES[currency] * 100)))
    return found


def rows(target: sa.Engine, query: str) -> list[Any]:
    with target.connect() as connection:
        return list(connection.execute(sa.text(query)))


async def load(target: sa.Engine, report: Path, orders: Path = ORDERS) -> Any:
    etl = example("etl")
    params = {"orders": str(orders), "report": str(report)}
    return await run_workflow(etl.etl, params, functions=etl.FUNCTIONS, services={"target": target})


async def test_the_table_has_what_is_right_and_the_report_tells_the_rest(
    target: sa.Engine, tmp_path: Path
) -> None:
    report = tmp_path / "report.md"
    ended = await load(target, report)
    expected = orders_in_the_file()
    assert ended.check().result("load") == len(expected) == 346
    found = rows(target, "SELECT order_id, month, cents FROM booking ORDER BY order_id")
    assert [tuple(row) for row in found] == sorted(expected)
    text = report.read_text()
    assert "346 orders were loaded, 14 lines were rejected." in text
    assert {int(line) for line in re.findall(r"^- line (\d+): ", text, re.MULTILINE)} == _BAD
    assert "- line 351: order_id: A10349 was there before" in text
    by_month = Counter(month for _, month, _ in expected)
    assert dict(re.findall(r"^\| (2026-\d\d) \| (\d+) \|", text, re.MULTILINE)) == {
        month: str(number) for month, number in by_month.items()
    }
    assert not list(tmp_path.glob("*.new"))


async def test_a_second_run_changes_nothing(target: sa.Engine, tmp_path: Path) -> None:
    everything = "SELECT * FROM booking ORDER BY order_id"
    (await load(target, tmp_path / "first.md")).check()
    before = rows(target, everything)
    (await load(target, tmp_path / "second.md")).check()
    assert rows(target, everything) == before
    assert (tmp_path / "first.md").read_text() == (tmp_path / "second.md").read_text()


async def test_a_target_that_is_away_for_a_while_is_tried_again(target: sa.Engine, tmp_path: Path) -> None:
    """A view in the table's place stands for it: no row can be loaded while it is there."""
    with target.begin() as connection:
        connection.execute(sa.text("CREATE VIEW booking AS SELECT 1 AS order_id"))
    etl = example("etl")
    async with Harness(functions=etl.FUNCTIONS, services={"target": target}) as harness:
        params = {"orders": str(ORDERS), "report": str(tmp_path / "report.md")}
        run_id = (await harness.execute(etl.etl, params)).run_id
        await harness.advance()  # all that goes without time; the next try is due in five seconds
        with target.begin() as connection:
            connection.execute(sa.text("DROP VIEW booking"))
        ended = await harness.ended(run_id)
    assert [attempt.outcome for attempt in ended.check().attempts("load")] == ["failed", "succeeded"]
    assert len(rows(target, "SELECT order_id FROM booking")) == 346


async def test_a_file_that_is_not_there_is_told(target: sa.Engine, tmp_path: Path) -> None:
    ended = await load(target, tmp_path / "report.md", tmp_path / "nothing.csv")
    assert ended.states["load"] == "skipped"
    with pytest.raises(AssertionError, match=r"FileNotFoundError.*nothing\.csv"):
        ended.check()


def test_the_program_does_it_by_itself(database_url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", program("etl"), "--target", database_url, "--report", "out.md"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"run \d+ has succeeded; see out\.md\n", done.stdout)
    assert "346 orders were loaded" in (tmp_path / "out.md").read_text()


def test_the_readme_names_options_that_there_are() -> None:
    named = set(re.findall(r" (--[a-z]+)", (EXAMPLES / "etl" / "README.md").read_text()))
    assert named - {"--db"} <= set(re.findall(r'"(--[a-z]+)"', Path(program("etl")).read_text()))
