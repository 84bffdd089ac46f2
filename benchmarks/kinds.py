"""The executor kind `stamp`: its body begins with a look at the clock, which other processes can read."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.executors.base import ExecutorSettings, TaskContext
from engine.model.json import JSON
from engine.model.outcomes import Outcome, Succeeded

FILE = "BENCHMARK_STAMPS"
_REPOSITORY = Path(__file__).parents[1]


class Stamp:
    """Writes `CLOCK_MONOTONIC` and the task's name to the file named in the environment, then sleeps.

    One `O_APPEND` write per body: lines of many processes never mix. All processes of a machine share
    that clock.
    """

    kind = "stamp"
    category = "benchmark"

    def __init__(self, settings: ExecutorSettings | None = None) -> None:
        self._descriptor = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    def check(self, params: JSON) -> None: ...

    async def execute(self, context: TaskContext, params: Any) -> Outcome:
        os.write(self._descriptor, b"%d %s\n" % (time.monotonic_ns(), context.lease.name.encode()))
        if params:
            await asyncio.sleep(params["seconds"])
        return Succeeded()


def install(folder: Path) -> dict[str, str]:
    """Make a package with our entry point in `folder`; returns the environment for processes with it."""
    metadata = folder / "benchmark_kinds-1.0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: benchmark-kinds\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[engine.executors]\nstamp = benchmarks.kinds:Stamp\n")
    stamps = folder / "stamps"
    stamps.touch()
    return {"PYTHONPATH": os.pathsep.join([str(folder), str(_REPOSITORY)]), FILE: str(stamps)}


def read(environment: Mapping[str, str]) -> list[tuple[str, float]]:
    """(task name, seconds on the monotonic clock) of every body that began, in order."""
    lines = Path(environment[FILE]).read_text().splitlines()
    stamps = (line.split(" ", 1) for line in lines)
    return [(name, int(at) / 1e9) for at, name in stamps]


def now() -> float:
    """Seconds on the clock of the stamps."""
    return time.monotonic_ns() / 1e9
