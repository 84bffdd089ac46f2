"""Limits by key: how many tasks that name one may run at once. Set with the tasks, or here by operators."""

from __future__ import annotations

from engine.errors import InvalidInput, NotFound
from engine.model.graph import MAX_AT_MOST, check_name
from engine.model.records import LimitUse
from engine.store import limits, submits
from engine.store.database import Database, Transaction


async def list_limits(database: Database, *, limit: int = 1_000, offset: int = 0) -> list[LimitUse]:
    """By key, each with the number of tasks that run now."""
    return await database.read(limits.list_, limit, offset)


async def put(database: Database, key: str, at_most: int, *, actor: str = "local") -> LimitUse:
    """Let at most so many tasks that name `key` run at once, from the next claim on; what runs goes on.

    The key `*` holds for every task that is submitted from now on, whatever else it names. Tasks that bring
    the limit along do not change it any more, until it is lifted. Raises `InvalidInput`.
    """
    check_name(key, "limit")
    if not 1 <= at_most <= MAX_AT_MOST:
        raise InvalidInput(f"at_most is {at_most}; it is 1 to {MAX_AT_MOST}")
    return await database.run(_put, key, at_most, True, actor=actor)


async def lift(database: Database, key: str, *, actor: str = "local") -> LimitUse:
    """Let as many run as there are workers for, until tasks bring the limit along again. Raises `NotFound`.

    It stays in the list, for tasks that still name it: one that is not there would let one of them run.
    """
    return await database.run(_lift, key, actor=actor)


def _put(tx: Transaction, key: str, at_most: int, is_fixed: bool) -> LimitUse:
    limits.set_(tx, key, at_most, is_fixed=is_fixed)
    tx.wakes.update(submits.queue_names(tx))
    found = limits.get(tx, key)
    assert found is not None
    return found


def _lift(tx: Transaction, key: str) -> LimitUse:
    if limits.get(tx, key) is None:
        raise NotFound(f"limit not found: {key}")
    return _put(tx, key, MAX_AT_MOST, False)
