"""Our statements in a transaction that a caller owns: never begun, committed or rolled back here."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, TypeVar

import sqlalchemy as sa

from engine.errors import Conflict
from engine.store.counters import FIRST_LOOSE_SHARD
from engine.store.database import LostRace, Transaction
from engine.store.dialects.borrowed import borrowed_dialect
from engine.store.prepared import Prepared

T = TypeVar("T")

_RERUNS = 5
_SAVEPOINT = "task_engine_submit"
_OWN_SCHEMA = {"schema_translate_map": None}


class BorrowedTransaction(Transaction):
    """Finds our tables by the connection's search path, whatever schemas the caller maps for its own."""

    __slots__ = ()

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        source = statement.source if isinstance(statement, Prepared) else statement
        return self.connection.execute(source, parameters, execution_options=_OWN_SCHEMA)


def perform(
    connection: sa.Connection,
    work: Callable[[Transaction], T],
    *,
    actor: str = "local",
    may_lose_race: bool = False,
) -> T:
    """Run `work` in the caller's open transaction: what it wrote stands as a whole, or not at all.

    A savepoint keeps that promise where it is needed: on SQLite, where a failed statement leaves the
    earlier ones in place, and for work that may have to run again. (Elsewhere it is left out: beyond 64
    savepoints in a transaction every other session of Postgres gets slower.)
    """
    dialect = borrowed_dialect(connection)
    dialect.enter(connection)
    # A counter row of this process would stay locked until the caller commits; nobody shares this one.
    shard = random.randrange(FIRST_LOOSE_SHARD, 2**31) if dialect.locks_rows else 0
    needs_savepoint = may_lose_race or not dialect.aborts_on_error
    for _ in range(_RERUNS):
        tx = BorrowedTransaction(connection, dialect, dialect.pipeline(connection), actor, shard)
        try:
            with _savepoint(connection) if needs_savepoint else nullcontext():
                return work(tx)
        except LostRace:
            continue
        except sa.exc.DBAPIError as error:
            explained = dialect.explained(error)
            if explained is error:
                raise
            raise explained from error
    raise Conflict("another transaction is using the same idempotency key; try again when it has ended")


@contextmanager
def _savepoint(connection: sa.Connection) -> Iterator[None]:
    dialect = connection.dialect
    dialect.do_savepoint(connection, _SAVEPOINT)
    try:
        yield
    except BaseException:
        with suppress(sa.exc.DBAPIError):  # the connection is gone: so is the transaction
            dialect.do_rollback_to_savepoint(connection, _SAVEPOINT)
            dialect.do_release_savepoint(connection, _SAVEPOINT)
        raise
    dialect.do_release_savepoint(connection, _SAVEPOINT)
