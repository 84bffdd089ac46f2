"""Where contestants keep their rows: fresh databases on a Postgres of our own, or files of SQLite."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import psycopg
import sqlalchemy as sa

from engine.store import migrate
from engine.store.database import Database
from tests.support.postgres import Cluster, Server, find_binaries
from tests.support.template import Template, migrated_template

# Those of the reference measurements; everything else as Postgres ships it, fsync included.
SETTINGS: dict[str, str | int] = {
    "shared_buffers": "512MB",
    "max_wal_size": "4GB",
    "max_connections": 200,
    "jit": "on",
}


class Place(Protocol):
    """A kind of database. What `fresh` and `empty` give is dropped at the end of the block."""

    name: str

    @property
    def pid(self) -> int | None:
        """The main process of a server that we started."""
        ...

    def fresh(self) -> AbstractContextManager[str]:
        """The URL of a database with the engine's schema."""
        ...

    def empty(self) -> AbstractContextManager[str]:
        """The URL of a database without tables, for peers and for floors with tables of their own."""
        ...


class PostgresPlace:
    """Databases of one server: ours for the length of the block, or one that runs already."""

    name = "postgres"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._template: Template | None = None
        self._numbers = count(1)
        self._over_tcp = isinstance(server, Cluster) and server.listen is not None

    @contextmanager
    def fresh(self) -> Iterator[str]:
        if self._template is None:
            self._template = migrated_template(self._server)
        with self._template.clone() as url:
            yield self._reached(url)

    @contextmanager
    def empty(self) -> Iterator[str]:
        name = f"empty{next(self._numbers)}"
        url = self._server.create_database(name)
        try:
            yield self._reached(url)
        finally:
            self._server.drop_database(name)

    def _reached(self, url: str) -> str:
        """Over TCP, as peers and users come; the cluster's own URLs are those of its Unix socket."""
        if not self._over_tcp:
            return url
        assert isinstance(self._server, Cluster)
        return self._server.tcp_url(str(sa.make_url(url).database))

    @property
    def pid(self) -> int | None:
        return self._server.pid if isinstance(self._server, Cluster) else None


class SqlitePlace:
    """Files in a temporary folder, which must be on a real disk for `fsync` to mean anything."""

    name = "sqlite"
    pid: int | None = None

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)

    @contextmanager
    def fresh(self) -> Iterator[str]:
        template = self._folder / "template.db"
        if not template.exists():
            database = Database(f"sqlite:///{template}", wake_others=False)
            migrate.upgrade(database.engine)
            database.close()
        with self.empty() as url:
            shutil.copyfile(template, sa.make_url(url).database or "")
            yield url

    @contextmanager
    def empty(self) -> Iterator[str]:
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        try:
            yield f"sqlite:///{folder / 'engine.db'}"
        finally:
            shutil.rmtree(folder)


@contextmanager
def places(wanted: list[str]) -> Iterator[list[Place]]:
    """`wanted` are `postgres` (a server of our own), `sqlite`, and URLs of Postgres servers that run."""
    with ExitStack() as stack:
        opened: list[Place] = []
        for name in wanted:
            if name == SqlitePlace.name:
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="task-engine-bench-"))
                opened.append(SqlitePlace(Path(folder)))
                continue
            server = _own_server() if name == PostgresPlace.name else Server(name)
            stack.callback(server.close)
            opened.append(PostgresPlace(server))
        yield opened


def _own_server() -> Cluster:
    settings = dict(SETTINGS)
    if any(find_binaries().parent.rglob("pg_stat_statements.so")):
        # Loaded for the scenario that counts statements, silent for all others.
        settings |= {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track": "none"}
    return Cluster(durable=True, listen="127.0.0.1", settings=settings)


def plain(url: str) -> str:
    """The URL as psycopg and other drivers read it: without SQLAlchemy's driver name."""
    return sa.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def connect(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(plain(url), autocommit=True)
