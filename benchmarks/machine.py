"""The machine and the versions that a figure belongs to."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.servers import Place, connect

_SETTINGS = ("shared_buffers", "max_wal_size", "fsync", "synchronous_commit", "full_page_writes")


def describe(places: Sequence[Place], command: str) -> dict[str, Any]:
    packages = ("psycopg", "sqlalchemy", "litestar", "uvicorn", "uvloop", "msgspec")
    return {
        "command": command,
        "commit": _commit(),
        "machine": f"{psutil.cpu_count()} × {_processor()}, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "load": round(os.getloadavg()[0], 1),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
            **{place.name: _database(place) for place in places},
        },
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def cache_folder() -> Path:
    """What is costly to make and may be lost: environments of peers."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "task-engine-benchmarks"


def _commit() -> str:
    told = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return told.stdout.strip() or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _database(place: Place) -> str:
    if place.name == "sqlite":
        return f"{sqlite3.sqlite_version}, synchronous = FULL"
    with place.empty() as url, connect(url) as connection:
        told = [
            connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
            for name in ("server_version", *_SETTINGS)
        ]
    values = [str(row[0]) for row in told if row]
    return f"{values[0]}, " + ", ".join(
        f"{name} = {value}" for name, value in zip(_SETTINGS, values[1:], strict=True)
    )
