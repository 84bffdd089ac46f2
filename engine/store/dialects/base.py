"""The questions that a database must answer. Everything else is shared SQL."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from engine.store.prepared import Pipeline


@dataclass(frozen=True, slots=True)
class Durability:
    """What a commit survives here, for `doctor` and `/ready`."""

    level: str
    is_durable: bool
    remarks: tuple[str, ...] = ()


class Subscription(Protocol):
    def close(self) -> None: ...


class Executes(Protocol):
    """A transaction, as far as a dialect needs it."""

    @property
    def connection(self) -> sa.Connection: ...
    @property
    def gives_way(self) -> bool: ...
    def execute(self, statement: Any, parameters: Any = None) -> Any: ...


class Dialect:
    """Portable answers; a database overrides what it does differently."""

    drivername: str
    sql: sa.engine.Dialect  # what statements are compiled for
    listens: bool = False  # can push wake-ups to other processes
    locks_rows: bool = True  # several writers at once, so rows are locked
    writes_in_with: bool = False  # WITH … AS (UPDATE …): one statement can do what would take several
    has_lateral: bool = False  # FROM may hold a query that reads a row of its left neighbour
    # From so many rows on, a value that all of them share is given once and not read from each; there is then
    # a statement for each choice of columns.
    shares_values_from: int = 1

    # --- opening

    def create_engine(self, url: sa.URL, *, pool_size: int, exclusive: bool) -> sa.Engine:
        """An engine whose transactions are safe for claiming."""
        raise NotImplementedError

    def options(self) -> Collection[str] | None:
        """What may stand behind `?` in a URL; None if that is not known."""
        return None

    def pipeline(self, connection: sa.Connection) -> Pipeline:
        """How prepared statements of one transaction travel."""
        return Pipeline(connection)

    def migration_lock(self, connection: sa.Connection) -> AbstractContextManager[None]:
        """One upgrader at a time."""
        return _no_lock()

    # --- expressions

    def now(self) -> sa.ColumnElement[Any]:
        """The database's time, the same within one statement (a volatile clock cannot use an index)."""
        raise NotImplementedError

    def later(self, milliseconds: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """`now()` plus so many milliseconds."""
        raise NotImplementedError

    def given(self, name: str, type_: sa.types.TypeEngine[Any]) -> sa.ColumnElement[Any]:
        """A value bound as it would stand in a recordset: JSON and times as text."""
        return sa.bindparam(name, type_=sa.types.NULLTYPE)

    def recordset(self, name: str, columns: Mapping[str, sa.types.TypeEngine[Any]]) -> Any:
        """Rows out of one JSON document bound as `name`: an array of arrays in the order of `columns`.

        One statement text for any number of rows; several times faster than a list of parameters.
        """
        raise NotImplementedError

    def candidates(self, column: sa.ColumnElement[Any], query: sa.Select[Any]) -> sa.ColumnElement[bool]:
        """`column` is among the rows that `query` picks and locks, once."""
        raise NotImplementedError

    def is_any(self, column: sa.ColumnElement[Any], name: str) -> sa.ColumnElement[bool]:
        """`column` is in the list bound as `name` (bind what `array()` returns)."""
        raise NotImplementedError

    def array(self, values: Iterable[Any]) -> Any:
        """A list as `is_any` wants it bound: one literal, not a list of parameters."""
        raise NotImplementedError

    def insert(self, table: sa.Table) -> Any:
        """An INSERT that knows `on_conflict_do_update`."""
        raise NotImplementedError

    # --- locks

    def share_runs(self, tx: Executes, run_ids: Sequence[int]) -> None:
        """Keep pause, cancel and retry of these runs out until the transaction ends. Ids sorted.

        From here on a transaction that gives way fails, as `is_locked` recognises, rather than wait long.
        """

    def own_runs(self, tx: Executes, run_ids: Sequence[int]) -> None:
        """Be the only one who finishes, pauses, cancels or retries in these runs. Likewise."""

    def is_locked(self, error: BaseException) -> bool:
        """Somebody else held a lock for longer than we would wait. Nothing was committed."""
        return False

    def end_stalled(self, tx: Executes) -> int:
        """End transactions of stopped processes that the database itself would let wait. Returns how many."""
        return 0

    # --- ids

    def allocate(self, tx: Executes, name: str, count: int) -> list[int]:
        """`count` fresh ids of sequence `name`, ascending."""
        raise NotImplementedError

    # --- errors, by code and never by text

    def is_rerunnable(self, error: BaseException) -> bool:
        """The transaction lost a race (dead-lock, serialization, busy): rerun it whole."""
        return False

    def is_disconnect(self, error: BaseException) -> bool:
        """The connection is gone; a commit under way may or may not have happened."""
        return False

    def is_unavailable(self, error: BaseException) -> bool:
        """The database is at fault and not what we sent: the same work may succeed later."""
        return self.is_disconnect(error) or self.is_rerunnable(error)

    def is_duplicate(self, error: BaseException) -> bool:
        """A unique key already exists."""
        return False

    # --- wake-ups: hints, never needed for correctness

    def notify(self, connection: Any, payload: str) -> None:
        """Tell other processes that work is there. `connection` comes from `open_notifier`."""

    def connect_arguments(self, url: sa.URL) -> dict[str, Any]:
        """Keyword arguments for the bare driver, for connections outside of the pool."""
        raise NotImplementedError

    def open_notifier(self, url: sa.URL) -> Any:
        return None

    def subscribe(self, url: sa.URL, on_hint: Callable[[str], None]) -> Subscription:
        """Call `on_hint(payload)` from another thread whenever another process may have left work."""
        raise NotImplementedError

    # --- operators' questions

    def durability(self, connection: sa.Connection) -> Durability:
        raise NotImplementedError

    def facts(self, connection: sa.Connection) -> dict[str, Any]:
        """What `doctor` prints: versions, modes, oldest transaction."""
        raise NotImplementedError


@contextmanager
def _no_lock() -> Iterator[None]:
    yield
