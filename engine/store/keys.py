"""Idempotency keys: each stands for one request, and knows the run and the answer that it led to."""

from __future__ import annotations

from dataclasses import dataclass
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


def find_key(tx: Transaction, scope: str, key: str) -> BoundKey | None:
    row = tx.execute(_FIND_KEY, {"scope": scope, "key": key}).one_or_none()
    return None if row is None else BoundKey(row.fingerprint, row.run_id, msgspec.json.decode(row.answer))


# The answer travels as text: a caller's own connection may read and write JSON in ways of its own.
_FIND_KEY = sa.select(
    idempotency_key.c.fingerprint,
    idempotency_key.c.run_id,
    sa.cast(idempotency_key.c.answer, sa.Text).label("answer"),
).where(
    idempotency_key.c.scope == sa.bindparam("scope", type_=sa.Text),
    idempotency_key.c.key == sa.bindparam("key", type_=sa.Text),
)


def insert_key(tx: Transaction, scope: str, key: str, fingerprint: str, run_id: int, answer: Any) -> None:
    """Bind a key to a run. Raises `LostRace` if another submit with the key was faster."""
    rows = document([[scope, key, fingerprint, run_id, json_text(answer)]])
    if tx.execute(_insert_key(tx.dialect), {"keys": rows}).first() is None:
        raise LostRace


@statement
def _insert_key(dialect: Dialect) -> Any:
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
