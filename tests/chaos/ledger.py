"""The executor kind `ledger`: writes down each start and end of its body, and fails as often as it is told.

It enters the worker processes by the door of every plug-in: an installed package with an entry point.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from engine.executors.base import ExecutorSettings, TaskContext
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Succeeded

LEDGER = "CHAOS_LEDGER"
_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_REPOSITORY = Path(__file__).parents[2]


class LedgerExecutor:
    kind = "ledger"
    category = "test"

    def __init__(self, settings: ExecutorSettings) -> None:
        # One write each, to a file opened for appending: lines of many processes never mix.
        self._descriptor = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

    def check(self, params: JSON) -> None: ...

    async def execute(self, context: TaskContext, params: Any) -> Outcome:
        self._write(context, "start")
        await asyncio.sleep(params["ms"] / 1000)
        self._write(context, "end")
        if context.lease.failures < params.get("fails", 0):
            return Failed("as it was told")
        return Succeeded({"pid": os.getpid()})

    def _write(self, context: TaskContext, word: str) -> None:
        lease = context.lease
        line = (
            f"{lease.run_id} {lease.task_id} {lease.attempt} {lease.token} {lease.session_id} {os.getpid()} "
            f"{word} {time.clock_gettime(_BOOT):.6f}\n"
        )
        os.write(self._descriptor, line.encode())


def append(line: str) -> None:
    """With one write, to a file opened for appending: lines of many processes never mix."""
    descriptor = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def install(folder: Path) -> str:
    """Make a package with our entry point in `folder`; returns the import path to give to a process."""
    metadata = folder / "ledger_executor-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ledger-executor\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[engine.executors]\n"
        "ledger = tests.chaos.ledger:LedgerExecutor\n"
        "poison = tests.worker.kinds:Poison\n"
        "blocker = tests.worker.kinds:Blocker\n"
        "stopper = tests.worker.kinds:Stopper\n"
        "tree = tests.worker.kinds:Tree\n"
    )
    return os.pathsep.join([str(folder), str(_REPOSITORY)])
