"""Shards of `counter` that submits inside callers' transactions left behind, and their folding."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from engine.store.bookkeeping import count
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import counter
from engine.store.statement import statement

FIRST_LOOSE_SHARD = 1000  # processes use the shards below
_CHUNK = 1000


def fold_counters(tx: Transaction, limit: int = _CHUNK) -> int:
    """Move the totals of about `limit` loose rows into this process's shard. Returns the shards removed.

    Call again, in another transaction, until it returns 0. Readers sum over all shards and see no change.
    """
    shards = sorted(set(tx.execute(_LOOSE, {"limit": limit}).scalars()))
    if not shards:
        return 0
    totals: Counter[str] = Counter()
    for row in tx.execute(_remove(tx.dialect), {"shards": tx.dialect.array(shards)}):
        totals[row.name] += row.value
    count(tx, totals)
    return len(shards)


# Locked in one order, so that two folders wait for each other instead of dead-locking.
_LOOSE = (
    sa.select(counter.c.shard)
    .where(counter.c.shard >= FIRST_LOOSE_SHARD)
    .order_by(counter.c.shard, counter.c.name)
    .limit(sa.bindparam("limit", type_=sa.Integer))
    .with_for_update()
)


@statement
def _remove(dialect: Dialect) -> Any:
    return (
        sa.delete(counter)
        .where(dialect.is_any(counter.c.shard, "shards"))
        .returning(counter.c.name, counter.c.value)
    )
