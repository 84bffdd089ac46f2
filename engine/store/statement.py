"""How statements are built: once per database kind, from functions that take the dialect."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar, cast

import msgspec
import sqlalchemy as sa

from engine.model.json import JSON
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.prepared import Prepared

P = ParamSpec("P")
T = TypeVar("T")
CHUNK = 5_000  # rows in one statement
_encoder = msgspec.json.Encoder()


def statement(build: Callable[Concatenate[Dialect, P], Any]) -> Callable[Concatenate[Dialect, P], Prepared]:
    """Marks a function that builds a statement; it runs once per dialect (and other arguments)."""

    return _once(build)


def insertion(build: Callable[Concatenate[Dialect, P], Any]) -> Callable[Concatenate[Dialect, P], Prepared]:
    """As `statement`, for an INSERT that answers nothing: it may travel together with those sent after it."""
    return _once(build, is_insertion=True)


def sent_at_once(
    build: Callable[Concatenate[Dialect, P], Any],
) -> Callable[Concatenate[Dialect, P], Prepared]:
    """As `statement`, for one that the server is to begin with while we write the next."""
    return _once(build, at_once=True)


def _once(
    build: Callable[Concatenate[Dialect, P], Any], **options: bool
) -> Callable[Concatenate[Dialect, P], Prepared]:
    def prepared(dialect: Dialect, *args: P.args, **kwargs: P.kwargs) -> Prepared:
        return Prepared(build(dialect, *args, **kwargs), dialect.sql, **options)

    return cast(Callable[Concatenate[Dialect, P], Prepared], cache(prepared))


def document(rows: Iterable[Sequence[Any]]) -> str:
    """Rows for `Dialect.recordset`."""
    return _encoder.encode(list(rows)).decode()


def chunks(items: Iterable[T], size: int | None = None) -> Iterator[list[T]]:
    """Small enough that each statement soon follows the one before: the database ends whoever is idle in a
    transaction for seconds, and a busy machine took that long to gather the rows of 100,000 tasks."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size or CHUNK)):
        yield chunk


def json_text(value: JSON) -> str | None:
    """A JSON value as text inside a recordset; None stays SQL's null."""
    return None if value is None else _encoder.encode(value).decode()


def moment_text(value: datetime | None) -> str | None:
    """A time inside a recordset, in a form that every database reads (and SQLite stores)."""
    return None if value is None else value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")


def insert_rows(
    tx: Transaction,
    table: sa.Table,
    rows: Iterable[Sequence[Any]],
    columns: tuple[str, ...],
    *,
    stamped: str | None = None,
) -> None:
    """Insert `rows`, values in the order of `columns`; `stamped` is set to now."""
    for chunk in chunks(rows):
        insert_columns(tx, table, dict(zip(columns, zip(*chunk, strict=True), strict=True)), stamped=stamped)


def insert_columns(
    tx: Transaction,
    table: sa.Table,
    columns: Columns,
    *,
    stamped: str | None = None,
    at_once: bool = False,
) -> None:
    """As `insert_rows`, for rows that are put together column by column: a third of the time.

    `at_once`: the server is to begin with it, while the next are put together.
    """
    form, binds = parted(tx.dialect, columns)
    insert = _insert_at_once if at_once else _insert
    tx.execute(insert(tx.dialect, table, form, stamped), binds)


def _inserting(dialect: Dialect, table: sa.Table, form: Form, stamped: str | None) -> sa.Insert:
    rows, values = form.read(dialect, table)
    if stamped is not None:
        values[stamped] = moment_of(dialect, table.c[stamped])
    return sa.insert(table).from_select(list(values), sa.select(*values.values()).select_from(rows))


Columns = Mapping[str, Sequence[Any]]  # by name, all of one length


class Form(NamedTuple):
    """How rows are bound: as a recordset of `columns`, and apart from it what is `shared` by all of them."""

    columns: tuple[str, ...]
    shared: tuple[str, ...] = ()

    def read(self, dialect: Dialect, table: sa.Table) -> tuple[Any, dict[str, sa.ColumnElement[Any]]]:
        """The rows, and the value of each column."""
        rows = dialect.recordset("rows", column_types(table, self.columns))
        values = {name: rows.c[name] for name in self.columns}
        return rows, values | {name: dialect.given(name, table.c[name].type) for name in self.shared}


def parted(dialect: Dialect, columns: Columns) -> tuple[Form, dict[str, Any]]:
    """The best form for these rows, and what it binds."""
    if len(next(iter(columns.values()))) < dialect.shares_values_from:
        return Form(tuple(columns)), {"rows": document(zip(*columns.values(), strict=True))}
    shared = {
        name: values[0]
        for name, values in islice(columns.items(), 1, None)
        # The first column makes the rows. Documents are text only inside a recordset.
        if values.count(values[0]) == len(values) and not isinstance(values[0], dict | list)
    }
    kept = {name: values for name, values in columns.items() if name not in shared}
    rows = document(zip(*kept.values(), strict=True))
    return Form(tuple(kept), tuple(shared)), {"rows": rows, **shared}


def column_types(table: sa.Table, columns: Iterable[str]) -> Mapping[str, Any]:
    return {name: table.c[name].type for name in columns}


def moment_of(dialect: Dialect, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    return sa.type_coerce(dialect.now(), column.type)


_insert = insertion(_inserting)
_insert_at_once = sent_at_once(_inserting)
