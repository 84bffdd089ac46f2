"""How the database performs what an operation really sends: every statement's plan, with what it read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from engine.store.database import Database

_EXPLAINED = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\b")


@dataclass(frozen=True, slots=True)
class Scan:
    """One visit of a table. `rows` counts what was read, also what was thrown away; -1 if nobody counted."""

    table: str
    how: str
    index: str | None
    rows: int

    @property
    def is_whole(self) -> bool:
        """Reads the table (or an index) from end to end."""
        return self.how in ("Seq Scan", "SCAN")


@dataclass(frozen=True, slots=True)
class Plan:
    statement: str
    scans: list[Scan]
    text: str

    @property
    def pages(self) -> int:
        """Pages looked at; 0 if nobody counted."""
        return int(json.loads(self.text)[0]["Plan"]["Shared Hit Blocks"]) if self.text[:1] == "[" else 0

    def of(self, table: str) -> list[Scan]:
        return [scan for scan in self.scans if scan.table == table]


def plans_of(database: Database, operation: Callable[[], Any]) -> list[Plan]:
    """Perform `operation` and return the plan of each of its statements."""
    found: list[Plan] = []
    is_counting = database.dialect.locks_rows
    within: dict[Any, bool] = {}  # connections in a transaction; a statement may also be one by itself

    def explain(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("BEGIN", "COMMIT")):
            within[cursor.connection] = statement.startswith("BEGIN")
        if _EXPLAINED.match(statement):
            asking = type(cursor)(cursor.connection)  # understands the same kind of parameters
            if is_counting:
                is_within = within.get(cursor.connection, False)
                found.append(_counted(asking, statement, parameters, is_within=is_within))
            else:
                found.append(_estimated(asking, statement, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", explain)
    try:
        operation()
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", explain)
    assert found, "the operation sent nothing"
    return found


def _counted(cursor: Any, statement: str, parameters: Any, *, is_within: bool) -> Plan:
    changes_nothing = statement.lstrip().startswith("SELECT")
    if not changes_nothing:
        cursor.execute("SAVEPOINT explained" if is_within else "BEGIN")
    answer = cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters).fetchone()[0]
    if not changes_nothing:
        cursor.execute("ROLLBACK TO SAVEPOINT explained" if is_within else "ROLLBACK")
    document = answer if isinstance(answer, list) else json.loads(answer)
    scans = [
        _scan(node)
        for node in _nodes(document[0]["Plan"])
        if "Relation Name" in node and "Scan" in node["Node Type"]
    ]
    bitmaps = [node for node in _nodes(document[0]["Plan"]) if node["Node Type"] == "Bitmap Index Scan"]
    names = iter(node["Index Name"] for node in bitmaps)
    scans = [Scan(s.table, s.how, next(names), s.rows) if s.how == "Bitmap Heap Scan" else s for s in scans]
    return Plan(statement, scans, json.dumps(document, indent=1))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)


def _scan(node: dict[str, Any]) -> Scan:
    removed = sum(value for key, value in node.items() if key.startswith("Rows Removed by"))
    rows = max(node["Actual Rows"] + removed, 1) * node["Actual Loops"]  # to find nothing is work as well
    indexes = [below["Index Name"] for below in _nodes(node) if "Index Name" in below]  # of a bitmap: below
    return Scan(node["Relation Name"], node["Node Type"], indexes[0] if indexes else None, round(rows))


# `SEARCH task_state USING INDEX ix (…)`, `SCAN t USING COVERING INDEX ix`
_STEP = re.compile(r"(SCAN|SEARCH) (\w+)(?: USING (?:COVERING )?INDEX (\w+))?")


def _estimated(cursor: Any, statement: str, parameters: Any) -> Plan:
    rows = cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
    text = "\n".join(row[3] for row in rows)
    scans = []
    for how, table, index in _STEP.findall(text):
        if "VIRTUAL TABLE" not in next(line for line in text.splitlines() if f"{how} {table}" in line):
            scans.append(Scan(_table_of(table, statement), how, index or None, -1))
    return Plan(statement, scans, text)


def _table_of(alias: str, statement: str) -> str:
    named = re.search(rf"\b(\w+) AS {alias}\b", statement)
    return named[1] if named else alias
