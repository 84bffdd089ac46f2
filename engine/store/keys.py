"""Idempotency keys: each stands for one request, and knows the run and the answer that it led to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec
import sqlalchemy as sa

from engine.store.database import LostRace, Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import idempotency_key
from engine.store.statement import column_types, document, json_text, moment_of, statement


@dataclass(frozen=True, slots=True)
class BoundKey:
    """An idempotency key, the run that it stands for, and the answer to repeat."""

    fingerprint: str
    run_id: int
    answer: Any


def find_keys(tx: Transaction, names: Collection[tuple[str, str]]) -> dict[tuple[str, str], BoundKey]:
    """Of these (scope, key) pairs, those that are bound."""
    if not names:
        return {}
    rows = tx.execute(_find_keys(tx.dialect), {"names": document(names)})
    return {
        (row.scope, row.key): BoundKey(row.fingerprint, row.run_id, msgspec.json.decode(row.answer))
        for row in rows
    }


@statement
def _find_keys(dialect: Dialect) -> sa.Select[Any]:
    names = dialect.recordset("names", {"scope": sa.Text(), "key": sa.Text()})
    return sa.select(
        idempotency_key.c.scope,
        idempotency_key.c.key,
        idempotency_key.c.fingerprint,
        idempotency_key.c.run_id,
        # The answer travels as text: a caller's own connection may read and write JSON in ways of its own.
        sa.cast(idempotency_key.c.answer, sa.Text).label("answer"),
    ).where(idempotency_key.c.scope == names.c.scope, idempotency_key.c.key == names.c.key)


def insert_keys(tx: Transaction, keys: Mapping[tuple[str, str], BoundKey]) -> None:
    """Bind keys to runs. Raises `LostRace` if another submit with one of the keys was faster."""
    rows = [
        [scope, key, bound.fingerprint, bound.run_id, json_text(bound.answer)]
        for (scope, key), bound in sorted(keys.items(), key=itemgetter(0))  # in one order: no dead-lock
    ]
    if rows and len(tx.execute(_insert_keys(tx.dialect), {"keys": document(rows)}).all()) < len(rows):
        raise LostRace


@statement
def _insert_keys(dialect: Dialect) -> Any:
    names = ("scope", "key", "fingerprint", "run_id", "answer")
    rows = dialect.recordset("keys", column_types(idempotency_key, names))
    values = [*(rows.c[name] for name in names), moment_of(dialect, idempotency_key.c.created_at)]
    # SQLite cannot parse ON CONFLICT after a SELECT without a WHERE.
    insert = dialect.insert(idempotency_key).from_select(
        [*names, "created_at"], sa.select(*values).where(sa.true())
    )
    return insert.on_conflict_do_nothing().returning(idempotency_key.c.key)


def forget_keys(tx: Transaction, seconds: float) -> int:
    """Remove keys older than `seconds`."""
    cutoff = sa.type_coerce(tx.dialect.later(sa.literal(-seconds * 1000)), idempotency_key.c.created_at.type)
    return tx.execute(sa.delete(idempotency_key).where(idempotency_key.c.created_at < cutoff)).rowcount
