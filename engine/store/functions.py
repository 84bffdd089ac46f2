"""Functions that some process has code for: their names, so that workflows can be checked anywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa

from engine.model.json import JSON
from engine.model.run_defaults import FunctionOptions
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import attempt, function, task_state, worker_function, worker_session
from engine.store.statement import (
    column_types,
    document,
    insert_rows,
    json_text,
    moment_of,
    statement,
)

_COLUMNS = ("name", "description", "origin", "schema", "options")
_SHOWN = 20  # workers of one function that are named
MOST_COUNTED = 12  # releases of one task: by then it waits as long as it ever will


@dataclass(frozen=True, slots=True)
class KnownFunction:
    """A function as it was last registered, and the live workers that have code for it."""

    name: str
    description: str
    origin: str  # module:qualified.name
    schema: JSON  # JSON Schema of its parameters
    options: JSON  # of tasks that call it: see `model.run_defaults`
    registered_at: datetime
    worker_count: int
    workers: tuple[str, ...]  # their names, the first ones


def register(tx: Transaction, described: Sequence[Mapping[str, Any]], session_id: int | None = None) -> None:
    """Keep these, the newest word about each; `described` is what `FunctionRegistry.describe` says.

    With `session_id` it is this worker session that has code for them, and for no others.
    """
    rows = [
        [
            item["name"],
            item["description"],
            item["origin"],
            json_text(item["params"]),
            json_text(item.get("options")),
        ]
        for item in sorted(described, key=lambda item: str(item["name"]))
    ]
    if rows:
        tx.execute(_register(tx.dialect), {"functions": document(rows)})
    if rows and session_id is not None:
        names = sorted({str(item["name"]) for item in described})
        tx.execute(sa.delete(worker_function).where(worker_function.c.session_id == session_id))
        insert_rows(tx, worker_function, [[name, session_id] for name in names], ("name", "session_id"))


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


def options(tx: Transaction, names: Collection[str]) -> dict[str, FunctionOptions]:
    """What those of `names` say that say something; also on a connection that is not ours."""
    text = sa.cast(function.c.options, sa.Text).label("options")
    query = sa.select(function.c.name, text).where(
        function.c.name.in_(sorted(names)), function.c.options.is_not(None)
    )
    found = {row.name: msgspec.json.decode(row.options) for row in tx.execute(query)}
    return {name: FunctionOptions.from_json(document) for name, document in found.items()}


def list_functions(
    tx: Transaction, *, is_missing: bool | None = None, limit: int = 1000, offset: int = 0
) -> tuple[int, list[KnownFunction]]:
    """How many there are, and some of them by name. A missing one is one that no live worker has."""
    wanted = []
    if is_missing is not None:
        wanted.append(~_is_somewhere if is_missing else _is_somewhere)
    total = tx.execute(sa.select(sa.func.count()).select_from(function).where(*wanted)).scalar_one()
    page = sa.select(function).where(*wanted).order_by(function.c.name).limit(limit).offset(offset)
    rows = tx.execute(page).all()
    found = _workers(tx, [row.name for row in rows])
    return total, [KnownFunction(**row._mapping, **found.get(row.name, _NOBODY)) for row in rows]


_HAVING = worker_function.join(worker_session, worker_session.c.id == worker_function.c.session_id)
_is_live = worker_session.c.ended_at.is_(None)
_is_somewhere = (
    sa.select(sa.literal(1))
    .select_from(_HAVING)
    .where(worker_function.c.name == function.c.name, _is_live)
    .correlate(function)
    .exists()
)
_NOBODY: dict[str, Any] = {"worker_count": 0, "workers": ()}


def _workers(tx: Transaction, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By function: how many live workers have it, and the names of the first of them."""
    of_function = worker_function.c.name
    order = worker_session.c.name, worker_session.c.id
    ranked = (
        sa.select(
            of_function.label("name"),
            worker_session.c.name.label("worker"),
            sa.func.row_number().over(partition_by=of_function, order_by=order).label("rank"),
            sa.func.count().over(partition_by=of_function).label("total"),
        )
        .select_from(_HAVING)
        .where(of_function.in_(names), _is_live)
        .subquery("ranked")
    )
    query = sa.select(ranked).where(ranked.c.rank <= _SHOWN).order_by(ranked.c.name, ranked.c.rank)
    found: dict[str, dict[str, Any]] = {}
    for row in tx.execute(query):
        entry = found.setdefault(row.name, {"worker_count": row.total, "workers": ()})
        entry["workers"] = (*entry["workers"], row.worker)
    return found


def forget_ended(tx: Transaction) -> None:
    """Remove what sessions had that are not kept any more."""
    kept = sa.select(worker_session.c.id)
    tx.execute(sa.delete(worker_function).where(worker_function.c.session_id.not_in(kept)))


# --- tasks that are left to others


def are_somewhere(tx: Transaction, names: Collection[str], task_id: int) -> bool:
    """Whether a live worker that takes from the queue of this task has code for all of them."""
    wanted = set(names)
    queue = sa.select(task_state.c.queue).where(task_state.c.task_id == task_id).scalar_subquery()
    query = (
        sa.select(worker_session.c.queues, queue.label("queue"))
        .select_from(_HAVING)
        .where(worker_function.c.name.in_(sorted(wanted)), _is_live)
        .group_by(worker_session.c.id)
        .having(sa.func.count() == len(wanted))
    )
    return any(not row.queues or row.queue in row.queues for row in tx.execute(query))


def given_back(tx: Transaction, task_id: int, code: str) -> int:
    """How many attempts of the task were released with `code`; no more than `MOST_COUNTED` are counted."""
    released = (
        sa.select(attempt.c.number)
        .where(
            attempt.c.task_id == task_id,
            attempt.c.outcome == "released",
            attempt.c.error["code"].as_string() == code,
        )
        .order_by(attempt.c.number.desc())
        .limit(MOST_COUNTED)
        .subquery()
    )
    count: int = tx.execute(sa.select(sa.func.count()).select_from(released)).scalar_one()
    return count
