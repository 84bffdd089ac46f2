"""Names that client contracts give to tasks. A resubmission moves the name; the old task stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import Id, alias
from engine.store.statement import document, insertion, moment_of


def point(tx: Transaction, task_ids: Mapping[tuple[str, str], int]) -> None:
    """Let each (contract, name) mean its task from now on. In order, so that two submits cannot dead-lock."""
    if task_ids:
        rows = document([*name, task_id] for name, task_id in sorted(task_ids.items()))
        tx.execute(_point(tx.dialect), {"names": rows})


@insertion
def _point(dialect: Dialect) -> Any:
    rows = dialect.recordset("names", {"contract": sa.Text(), "name": sa.Text(), "task_id": Id})
    insert = dialect.insert(alias).from_select(
        ["contract", "name", "task_id", "moved_at"],
        sa.select(rows.c.contract, rows.c.name, rows.c.task_id, moment_of(dialect, alias.c.moved_at))
        .where(sa.true())
        .order_by(rows.c.contract, rows.c.name),
    )
    return insert.on_conflict_do_update(
        index_elements=["contract", "name"],
        set_={"task_id": insert.excluded.task_id, "moved_at": insert.excluded.moved_at},
    )


def drop(tx: Transaction, contract: str, name: str) -> int | None:
    """Forget a name. Returns the task it meant, None if there was none."""
    return tx.execute(
        sa.delete(alias).where(alias.c.contract == contract, alias.c.name == name).returning(alias.c.task_id)
    ).scalar_one_or_none()
