"""What executors are given, and small ways to wait for facts."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.executors.base import ExecutorSettings, Interruption, TaskContext
from engine.functions.ports import InMemorySteps
from engine.model.json import JSON
from engine.model.records import Lease
from engine.model.retry import RetryPolicy

_task_ids = itertools.count(1_000)


@dataclass
class Recorder:
    """Keeps what an executor logs and reports."""

    pieces: list[tuple[str, str]] = field(default_factory=list)
    reports: list[JSON] = field(default_factory=list)

    def log(self, stream: str, text: str) -> None:
        self.pieces.append((stream, text))

    def logged(self, stream: str) -> str:
        return "".join(text for name, text in self.pieces if name == stream)

    async def report(self, document: JSON) -> None:
        self.reports.append(document)

    async def upstream(self, names: Sequence[str] | None = None) -> dict[str, JSON]:
        return {}


def make_lease(**changes: Any) -> Lease:
    values: dict[str, Any] = {
        "task_id": next(_task_ids),
        "run_id": 7,
        "name": "step",
        "kind": "noop",
        "params": None,
        "attempt": 1,
        "token": secrets.token_hex(16),
        "session_id": 3,
        "timeout_ms": None,
        "retry": RetryPolicy(),
        "failures": 0,
        "crashes": 0,
    }
    return Lease(**{**values, **changes})


class RecordedContext(TaskContext):
    """Without a worker: what it is given and told is its recorder's."""

    def __init__(self, lease: Lease, deadline: float | None, recorder: Recorder) -> None:
        super().__init__(lease, deadline, Interruption(), Interruption())
        self._recorder = recorder

    def log(self, stream: str, text: str) -> None:
        self._recorder.log(stream, text)

    async def report(self, document: JSON) -> None:
        await self._recorder.report(document)

    async def upstream(self, names: Sequence[str] | None = None) -> dict[str, JSON]:
        return await self._recorder.upstream(names)

    def steps(self) -> InMemorySteps:
        return InMemorySteps()

    async def given_back(self, code: str) -> int:
        return 0


def make_context(
    recorder: Recorder | None = None, *, seconds: float | None = None, **lease: Any
) -> TaskContext:
    deadline = None if seconds is None else time.monotonic() + seconds
    return RecordedContext(make_lease(**lease), deadline, recorder or Recorder())


def make_settings(folder: Path, **changes: Any) -> ExecutorSettings:
    return ExecutorSettings(**{"file_root": folder, "kill_grace_seconds": 5.0, **changes})


async def eventually(fact: Callable[[], Any], seconds: float = 20) -> Any:
    """The first true value of `fact`."""
    async with asyncio.timeout(seconds):
        while not (value := fact()):
            await asyncio.sleep(0.005)
    return value


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def number_in(path: Path) -> int | None:
    """The number that a process wrote into `path`, once the line is complete."""
    text = path.read_text() if path.exists() else ""
    return int(text) if text.endswith("\n") else None
