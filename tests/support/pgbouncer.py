"""PgBouncer in transaction mode in front of a cluster: many clients share a few server connections."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

import psycopg

from tests.support.folder import Folder
from tests.support.postgres import Cluster

_PORT = 6432
_START_SECONDS = 30


class PgBouncer:
    """Every transaction may run on another server connection, of which each database has `pool_size`."""

    def __init__(self, cluster: Cluster, *, pool_size: int = 4) -> None:
        program = find_pgbouncer()
        self._folder = Folder("pool")
        self._log = self._folder.path / "log"
        settings = self._folder.path / "pgbouncer.ini"
        settings.write_text(
            "[databases]\n"
            f"* = host={cluster.path} port={cluster.port} user=postgres\n"
            "[pgbouncer]\n"
            "pool_mode = transaction\n"
            f"default_pool_size = {pool_size}\n"
            "max_client_conn = 500\n"
            "auth_type = any\n"
            "listen_addr =\n"
            f"listen_port = {_PORT}\n"
            f"unix_socket_dir = {self._folder.path}\n"
        )
        settings.chmod(0o644)
        try:
            self._server = self._folder.popen(program, settings, log=self._log)
            self._wait_until_ready()
        except BaseException:
            self._folder.close()
            raise

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self._folder.path}&port={_PORT}"

    def close(self) -> None:
        self._folder.close()
        self._server.wait()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with suppress(psycopg.OperationalError):
                psycopg.connect(
                    host=str(self._folder.path), port=_PORT, dbname="postgres", user="postgres"
                ).close()
                return
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"pgbouncer did not start:\n{self._log.read_text(errors='replace')}")
            time.sleep(0.02)


def find_pgbouncer() -> Path:
    """The program, also where an ordinary user's PATH does not look."""
    found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))
    if found is None:
        raise RuntimeError(
            "this test needs pgbouncer: apt-get install pgbouncer (macOS: brew install pgbouncer)"
        )
    return Path(found)
