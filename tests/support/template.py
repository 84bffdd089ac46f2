"""A database with the schema in it, made once and cloned: far faster than migrating one for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count

import psycopg
import sqlalchemy as sa

from engine.store import migrate
from tests.support.postgres import Server

_TEMPLATE = "tpl"
Give = Callable[[], AbstractContextManager[str]]  # the URL of a database


class Template:
    """Clones are named t1, t2, …; nobody may stay connected to the template itself."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers = count(1)
        self._idle: list[str] = []  # clones that were lent, and are empty again
        self._shape = ""  # of a clone that nobody has used

    @contextmanager
    def lend(self) -> Iterator[str]:
        """The URL of an empty database with our schema. It may have served another test, and then its ids go
        on (this process holds some in stock), and the planner has statistics: see `clone`."""
        name = self._idle.pop() if self._idle else self._make()
        try:
            yield self._server.url(name)
        finally:
            if self._is_emptied(name):
                self._idle.append(name)
            else:
                self._server.drop_database(name)

    @contextmanager
    def clone(self) -> Iterator[str]:
        """The URL of a new database with our schema; dropped afterwards."""
        name = self._make()
        try:
            yield self._server.url(name)
        finally:
            self._server.drop_database(name)

    def _make(self) -> str:
        name = f"t{next(self._numbers)}"
        url = self._server.create_database(name, template=_TEMPLATE)
        if not self._shape:
            with _connected(url) as connection:
                self._shape = _shape(connection)
        return name

    def _is_emptied(self, name: str) -> bool:
        """Whether nothing of what a test did is left: not if it changed more than rows."""
        try:
            with _connected(self._server.url(name)) as connection:
                connection.execute(_SEND_AWAY)
                if _shape(connection) != self._shape:
                    return False
                connection.execute(_EMPTY)
        except psycopg.Error:  # it is gone, closed to us, or locked
            return False
        return True


def migrated_template(server: Server) -> Template:
    """Make the template on `server`. Call it once for each server."""
    engine = sa.create_engine(server.create_database(_TEMPLATE))
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()
    return Template(server)


def _connected(url: str) -> psycopg.Connection:
    plain = sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, options="-c lock_timeout=5s")


def _shape(connection: psycopg.Connection) -> str:
    row = connection.execute(_SHAPE).fetchone()
    assert row is not None
    return str(row[0])


_SEND_AWAY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""

_SHAPE = """
SELECT md5(string_agg(thing, ',' ORDER BY thing)) FROM (
  SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'
  UNION ALL
  SELECT concat_ws(' ', 'relation', relname, relkind, relhasrules, reloptions)
  FROM pg_class WHERE relnamespace = 'public'::regnamespace
  UNION ALL
  SELECT concat_ws(' ', 'column', attrelid::regclass, attname, atttypid, attnotnull, attisdropped)
  FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
  WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND attnum > 0
  UNION ALL
  SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid))
  FROM pg_constraint
  UNION ALL
  SELECT concat_ws(' ', 'trigger', tgrelid::regclass, tgname) FROM pg_trigger WHERE NOT tgisinternal
  UNION ALL
  SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
  UNION ALL
  SELECT 'extension ' || extname FROM pg_extension
  UNION ALL
  SELECT 'prepared ' || gid FROM pg_prepared_xacts WHERE database = current_database()
  UNION ALL
  SELECT concat_ws(' ', 'setting', setrole, setconfig) FROM pg_db_role_setting
  JOIN pg_database ON pg_database.oid = setdatabase WHERE datname = current_database()
) AS things (thing)
"""

_EMPTY = """
DO $$
DECLARE
  name text;
  is_used boolean;
  used text[] := '{}';
BEGIN
  FOR name IN SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO is_used;
    IF is_used THEN
      used := used || quote_ident(name);
    END IF;
  END LOOP;
  IF used <> '{}' THEN
    EXECUTE 'TRUNCATE ' || array_to_string(used, ', ');
  END IF;
END
$$
"""
