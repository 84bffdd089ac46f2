"""Where databases differ. The only place that knows a database's name."""

from __future__ import annotations

import sqlalchemy as sa

from engine.errors import ConfigError
from engine.store.dialects.base import Dialect
from engine.store.dialects.postgres import PostgresDialect
from engine.store.dialects.sqlite import SqliteDialect

_DIALECTS: dict[str, Dialect] = {"postgresql": PostgresDialect(), "sqlite": SqliteDialect()}


def parse_url(url: str) -> sa.URL:
    """A database URL with our driver filled in. Raises `ConfigError` without echoing a password.

    What is misread could be a part of one: where that shows, the URL is refused.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # the second for a port that is no number
        raise ConfigError(
            "the database URL cannot be read; accepted: sqlite:///path/to/file.db, "
            "postgresql://user:password@host/name"
        ) from None
    backend = "postgresql" if parsed.drivername == "postgres" else parsed.get_backend_name()
    if backend not in _DIALECTS:
        raise ConfigError(
            f"database {backend!r} is not supported; use Postgres (postgresql://…) or SQLite (sqlite:///…)"
        )
    dialect = _DIALECTS[backend]
    known = dialect.options()
    ats = 0 if known is None else url.partition("://")[2].count("@")
    if ats > (parsed.username is not None):
        raise ConfigError(
            "the database URL has an @ besides that before the host; write @, / and ? of a user or "
            "password as %40, %2F and %3F"
        )
    if known is not None and (unknown := sorted(parsed.query.keys() - known)):
        raise ConfigError(f"the database URL has an unknown option {unknown[0][:40]!r}")
    return parsed.set(drivername=dialect.drivername)


def dialect_of(name: str) -> Dialect:
    """The dialect of a SQLAlchemy backend name, such as `connection.dialect.name`."""
    return _DIALECTS[name]
