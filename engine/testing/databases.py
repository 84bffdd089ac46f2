"""A fresh database for each test: made once with our schema, and copied from then on."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import sqlalchemy as sa
from psycopg import sql

from engine.errors import ConfigError
from engine.store import migrate
from engine.store.database import Database
from engine.store.dialects import parse_url

URL_VARIABLE = "TASK_ENGINE_TEST_URL"


class FreshDatabases:
    """Copies of one template: SQLite files, or databases of the Postgres server at `url`.

    On a server they are called `task_engine_test_…` and dropped afterwards; nothing else there is touched.
    """

    def __init__(self, url: str | None, folder: Path) -> None:
        """Raises `ConfigError` for a URL that is not one of Postgres."""
        self._folder = folder
        self._server = None if url is None else _server(url)
        self._template = self._make_template()

    @contextmanager
    def one(self, folder: Path) -> Iterator[str]:
        """The URL of a fresh one. A file is in `folder`."""
        if self._server is None:
            path = folder / "task-engine.db"
            shutil.copyfile(self._template, path)
            yield f"sqlite:///{path}"
            return
        name = _new_name()
        self._do("CREATE DATABASE {} TEMPLATE {}", name, self._template)
        try:
            yield self._url(name)
        finally:
            self._drop(name)

    def close(self) -> None:
        if self._server is not None:
            self._drop(self._template)

    def _make_template(self) -> str:
        if self._server is None:
            path = self._folder / "template.db"
            database = Database(f"sqlite:///{path}", wake_others=False)
            migrate.upgrade(database.engine)
            database.close()
            return str(path)
        name = _new_name()
        self._do("CREATE DATABASE {}", name)
        engine = sa.create_engine(sa.make_url(self._url(name)).set(drivername="postgresql+psycopg"))
        try:
            migrate.upgrade(engine)
        except BaseException:
            engine.dispose()
            self._drop(name)
            raise
        engine.dispose()  # nobody may be connected to what is copied
        return name

    def _drop(self, name: str) -> None:
        self._do("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _url(self, name: str) -> str:
        assert self._server is not None
        return self._server.set(database=name).render_as_string(hide_password=False)

    def _do(self, statement: str, *names: str) -> None:
        assert self._server is not None
        address = self._url(self._server.database or "postgres")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))


def _new_name() -> str:
    return f"task_engine_test_{os.getpid()}_{uuid.uuid4().hex[:8]}"


def _server(url: str) -> sa.URL:
    parsed = parse_url(url)
    if parsed.get_backend_name() != "postgresql":
        raise ConfigError(f"{URL_VARIABLE} has to begin with postgresql://; leave it out for SQLite files")
    return parsed.set(drivername="postgresql")
