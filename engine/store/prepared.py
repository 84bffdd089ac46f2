"""Statements compiled once and given straight to the driver.

SQLAlchemy builds them and keeps the connections; going through it for each execution as well costs more
than the database needs to perform it. On Postgres nobody waits for an answer before it is looked at.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, Self

import sqlalchemy as sa


class Prepared:
    """One statement for one kind of database. Not for IN lists and other SQL that depends on parameters.

    Its execution option `row` names the named tuple that its rows are to be.
    """

    def __init__(
        self,
        source: sa.Executable,
        dialect: sa.Dialect,
        *,
        is_insertion: bool = False,
        at_once: bool = False,
    ) -> None:
        self.source = source
        self.is_insertion = is_insertion  # it answers nothing, and reads no row of another insertion
        self.at_once = at_once  # not to wait for others on the way to the server
        compiled = source.compile(dialect=dialect)  # type: ignore[attr-defined]
        assert not compiled.post_compile_params, f"IN lists change with their parameters: {compiled}"
        self.sql = str(compiled)
        processors = {
            name: bind.type.dialect_impl(dialect).bind_processor(dialect)
            for bind, name in compiled.bind_names.items()
        }
        self._encoders = {name: encode for name, encode in processors.items() if encode is not None}
        binds = {name: bind for bind, name in compiled.bind_names.items()}
        self._defaults = self._encoded({n: bind.value for n, bind in binds.items() if not bind.required})
        self._positions: list[str] | None = compiled.positiontup
        self.parameters = len(compiled.positiontup or compiled.bind_names)
        columns = list(getattr(source, "exported_columns", ()))
        names = [column.key or "" for column in columns]
        made: Any = source.get_execution_options().get("row")
        assert not made or list(made._fields) == names, f"{names} are not the fields of {made}"
        make: Any = namedtuple
        row = made or make("Row", names, rename=True)
        self._row = row._make if names else tuple  # plain SQL text names none
        decoders = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]
        self._decoders = [(at, decode) for at, decode in enumerate(decoders) if decode is not None]

    def bound(self, parameters: Mapping[str, Any]) -> Any:
        """Parameters as the driver wants them."""
        values = {**self._defaults, **self._encoded(parameters)}
        return values if self._positions is None else [values[name] for name in self._positions]

    def _encoded(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        found = dict(parameters)
        for name in self._encoders.keys() & found.keys():
            found[name] = self._encoders[name](found[name])
        return found

    def rows(self, found: list[tuple[Any, ...]]) -> list[Any]:
        """What the driver returned, as named tuples of our types."""
        if self._decoders:
            found = [self._decoded(row) for row in found]
        return [self._row(row) for row in found]

    def _decoded(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for at, decode in self._decoders:
            values[at] = decode(values[at])
        return tuple(values)


class Rows:
    """What a statement returned, with the verbs of SQLAlchemy's `Result`. Fetched at the first look."""

    __slots__ = ("_pipeline", "_prepared", "_rows", "cursor")

    def __init__(self, prepared: Prepared, pipeline: Pipeline, cursor: Any) -> None:
        self._prepared = prepared
        self._pipeline = pipeline
        self.cursor = cursor  # None as long as the statement has not been sent
        self._rows: list[Any] | None = None

    def all(self) -> list[Any]:
        if self._rows is None:
            self._pipeline.leave()
            try:
                found = self.cursor.fetchall()
            except Exception as error:
                self._pipeline.raised(error, self._prepared.sql)
            self._rows = self._prepared.rows(found)
        return self._rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.all())

    def scalars(self) -> list[Any]:
        return [row[0] for row in self.all()]

    def first(self) -> Any:
        return next(iter(self.all()), None)

    def one_or_none(self) -> Any:
        rows = self.all()
        assert len(rows) < 2, f"{len(rows)} rows instead of one"
        return rows[0] if rows else None

    def one(self) -> Any:
        [row] = self.all()
        return row

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        row = self.one_or_none()
        return None if row is None else row[0]


class Pipeline:
    """The way of one transaction's prepared statements to the driver. This one waits for each answer."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        self.driver: Any = connection.connection.driver_connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def begin(self, *, is_reading: bool = False) -> None:
        """Called first in each transaction, after SQLAlchemy's own begin."""

    def execute(self, statement: Prepared, parameters: Mapping[str, Any]) -> Rows:
        cursor = self.send(statement.sql, statement.bound(parameters))
        rows = Rows(statement, self, cursor)
        if cursor.description is not None:
            rows.all()  # an open cursor would be in the way of the commit
        return rows

    def send(self, sql: str, parameters: Any = ()) -> Any:
        """Give a statement to a new cursor, which is returned. SQLAlchemy's events take place."""
        connection, cursor = self.connection, self.cursor()
        if self.is_watched:
            connection.dispatch.before_cursor_execute(connection, cursor, sql, parameters, None, False)
        try:
            self.perform(cursor, sql, parameters)
        except Exception as error:
            self.raised(error, sql)
        if self.is_watched:
            connection.dispatch.after_cursor_execute(connection, cursor, sql, parameters, None, False)
        return cursor

    @property
    def is_watched(self) -> bool:
        """Somebody listens to SQLAlchemy's events."""
        return self.connection._has_events or self.connection.engine._has_events

    def cursor(self) -> Any:
        return self.driver.cursor()

    @staticmethod
    def perform(cursor: Any, sql: str, parameters: Any) -> None:
        cursor.execute(sql, parameters)

    def raised(self, error: Exception, sql: str) -> NoReturn:
        """Raise what SQLAlchemy makes of a driver's error; it also forgets connections that are gone."""
        self.connection._handle_dbapi_exception(error, sql, None, None, None)

    def leave(self) -> None:
        """Wait for everything that was sent; what follows is answered at once."""

    def commit(self, transaction: sa.Transaction, hints: Collection[str] = ()) -> None:
        """Returns when the transaction is durable. `hints` are for processes that listen."""
        try:
            transaction.commit()
        except sa.exc.DBAPIError:
            # SQLite keeps a transaction open whose commit failed (busy: somebody reads), and SQLAlchemy would
            # put the connection back into its pool like that.
            with suppress(Exception):
                self.driver.rollback()
            raise

    @contextmanager
    def ended_by_errors(self) -> Iterator[None]:
        """Let go of statements under way before a failed transaction is rolled back."""
        yield
