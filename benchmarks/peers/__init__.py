"""Other engines, measured by scripts that run in environments of their own; see README.md."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# Each peer and the kind of URL it takes.
NAMES: Mapping[str, str] = {
    "pgqueuer": "postgres",
    "procrastinate": "postgres",
    "dbos": "postgres",
    "chancy": "postgres",
    "dramatiq": "redis",
    "huey": "sqlite",
}

_REQUIREMENTS = {
    "pgqueuer": ["pgqueuer==1.6.0", "asyncpg==0.32.0", "uvloop==0.23.0", "psycopg[binary]==3.3.9"],
    "procrastinate": ["procrastinate==3.10.0", "uvloop==0.23.0", "psycopg[binary]==3.3.9"],
    "dbos": ["dbos==3.4.0", "sqlalchemy==2.1.9", "psycopg[binary]==3.3.9"],
    "chancy": ["chancy==0.26.0", "uvloop==0.23.0", "psycopg[binary]==3.3.9"],
    "dramatiq": ["dramatiq[redis]==2.2.1"],
    "huey": ["huey==3.5.4"],
}


class PeerError(Exception):
    """A peer's script failed; the message ends with the last lines it wrote."""


def install(name: str, folder: Path) -> Path:
    """The Python of an environment in `folder` with the peer in its pinned version, made if need be."""
    environment = folder / name
    python = environment / "bin" / "python"
    installed = environment / "requirements.txt"  # written last: without it the environment is incomplete
    wanted = "\n".join(_REQUIREMENTS[name])
    if installed.exists() and installed.read_text() == wanted:
        return python
    _told([sys.executable, "-m", "venv", "--clear", str(environment)])
    _told([str(python), "-m", "pip", "install", "--quiet", *_REQUIREMENTS[name]])
    installed.write_text(wanted)
    return python


def run(
    name: str,
    python: Path,
    verb: str,
    *,
    url: str,
    count: int = 1000,
    workers: int = 1,
    timeout: float = 900.0,
    cut: float = 300.0,
) -> dict[str, Any]:
    """What the peer's script says for `verb`; README.md has the verbs and their figures.

    A drain that takes longer than `cut` seconds ends there, and its count says how far it came. After
    `timeout` seconds all of the script's processes are killed. Raises `PeerError`.
    """
    script = Path(__file__).with_name(f"{name}_peer.py")
    options = {"--url": url, "--count": count, "--workers": workers, "--cut": cut}
    command = [str(python), str(script), verb, *(str(part) for option in options.items() for part in option)]
    told = _told(command, timeout)
    figures: dict[str, Any] = json.loads(told.splitlines()[-1])
    return figures


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of a Redis server of our own that keeps an append-only file, written to disk every second."""
    program = shutil.which("redis-server")
    if program is None:
        raise PeerError("redis-server is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="peer-redis-") as folder:
        settings = ["--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--dir", folder]
        command = [program, "--port", str(port), "--bind", "127.0.0.1", *settings]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            if not any("Ready to accept connections" in line for line in server.stdout):
                raise PeerError("redis-server ended")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.communicate()


def _told(command: list[str], timeout: float | None = None) -> str:
    """What `command` writes to its standard output. No process that it started outlives the call."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        told, complaints = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # a chance to remove its files and databases
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=10)
        raise PeerError(f"{' '.join(command)}: not done after {timeout} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    if process.returncode:
        raise PeerError(f"{' '.join(command)}: exit code {process.returncode}\n{complaints[-3000:]}")
    return told
