"""Functions that some process has code for: their names, so that workflows can be checked anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import function
from engine.store.statement import column_types, document, json_text, moment_of, statement

_COLUMNS = ("name", "description", "origin", "schema")


def register(tx: Transaction, described: Sequence[Mapping[str, Any]]) -> None:
    """Keep these, the newest word about each; `described` is what `FunctionRegistry.describe` says."""
    rows = [
        [item["name"], item["description"], item["origin"], json_text(item["params"])]
        for item in sorted(described, key=lambda item: str(item["name"]))
    ]
    if rows:
        tx.execute(_register(tx.dialect), {"functions": document(rows)})


@statement
def _register(dialect: Dialect) -> Any:
    rows = dialect.recordset("functions", column_types(function, _COLUMNS))
    values = [rows.c[name] for name in _COLUMNS]
    now = moment_of(dialect, function.c.registered_at)
    query = sa.select(*values, now).where(sa.true()).order_by(rows.c.name)
    insert = dialect.insert(function).from_select([*_COLUMNS, "registered_at"], query)
    return insert.on_conflict_do_update(
        index_elements=["name"],
        set_={name: insert.excluded[name] for name in (*_COLUMNS[1:], "registered_at")},
    )


def names(tx: Transaction) -> list[str]:
    return list(tx.execute(sa.select(function.c.name).order_by(function.c.name)).scalars())


def list_functions(tx: Transaction, *, limit: int = 1000, offset: int = 0) -> list[Any]:
    """Rows of `function` by name."""
    return list(tx.execute(sa.select(function).order_by(function.c.name).limit(limit).offset(offset)))
