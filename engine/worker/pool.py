"""Several worker processes under one supervisor: starts them, replaces those that die, stops them all."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from engine.executors.base import ExecutorSettings, ProcessLimits
from engine.model.run_defaults import RunDefaults
from engine.telemetry import emit
from engine.worker.options import WorkerOptions

_RESTART_SECONDS = 1.0  # doubled for each process in a row that ends soon
_RESTART_SECONDS_MAX = 30.0
_SHORT_LIFE_SECONDS = 5.0
_PAUSE_SECONDS = 0.2
_OVERTIME_SECONDS = 60.0  # beyond the grace period, for a process that does not end


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What each process needs. Travels as one JSON line through a pipe: the URL may hold a password."""

    url: str
    processes: int = 1
    options: WorkerOptions = field(default_factory=WorkerOptions)
    executor_settings: ExecutorSettings = field(default_factory=ExecutorSettings)
    wake_others: bool = True
    run_defaults: RunDefaults = field(default_factory=RunDefaults)
    log_level: str = "info"

    def to_line(self) -> bytes:
        return json.dumps(dataclasses.asdict(self), default=str).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        fields: dict[str, Any] = json.loads(line)
        settings = fields["executor_settings"]
        settings["limits"] = ProcessLimits(**settings["limits"])
        settings["file_root"] = Path(settings["file_root"])
        settings["functions"] = tuple(settings["functions"])
        settings["protected_files"] = tuple(Path(path) for path in settings["protected_files"])
        fields["options"] = WorkerOptions(**fields["options"])
        fields["executor_settings"] = ExecutorSettings(**settings)
        fields["run_defaults"] = RunDefaults(**fields["run_defaults"])
        return cls(**fields)


async def run_pool(spec: PoolSpec, stop: asyncio.Event, force: asyncio.Event) -> int:
    """Keep `spec.processes` workers running until `stop`; they drain then. `force` ends them at once.

    Returns the number of processes that had to be replaced.
    """
    slots = [_keep_running(spec, number, stop, force) for number in range(spec.processes)]
    return sum(await asyncio.gather(*slots))


async def _keep_running(spec: PoolSpec, number: int, stop: asyncio.Event, force: asyncio.Event) -> int:
    replaced = 0
    wait = _RESTART_SECONDS
    while not stop.is_set():
        started, code = asyncio.get_running_loop().time(), 1
        try:
            process = await _spawn(spec)
        except OSError as error:  # no memory, processes or descriptors left
            emit("worker.process_missing", level="error", process=number, reason=str(error))
        else:
            code = await _attend(process, spec, stop, force)
            if stop.is_set():
                break
            replaced += 1
            emit("worker.process_died", level="warning", process=number, pid=process.pid, code=code)
        lived = asyncio.get_running_loop().time() - started
        is_killed = code < 0  # by a signal, so it is not a setting that has to be corrected first
        pause = _PAUSE_SECONDS if is_killed or lived > _SHORT_LIFE_SECONDS else wait
        wait = min(wait * 2, _RESTART_SECONDS_MAX) if pause == wait else _RESTART_SECONDS
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
    return replaced


async def _spawn(spec: PoolSpec) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engine.worker.process", stdin=subprocess.PIPE, start_new_session=True
    )
    assert process.stdin is not None
    process.stdin.write(spec.to_line())  # kept open: its end tells the worker that we are gone
    with suppress(OSError):
        await process.stdin.drain()
    return process


async def _attend(
    process: asyncio.subprocess.Process, spec: PoolSpec, stop: asyncio.Event, force: asyncio.Event
) -> int:
    """Wait for the process to end, passing a stop on to it: SIGTERM to drain, SIGKILL when forced."""
    ended = asyncio.create_task(process.wait())
    for wanted, number, seconds in (
        (stop, signal.SIGTERM, None),
        (force, signal.SIGKILL, spec.options.grace_seconds + _OVERTIME_SECONDS),
    ):
        signalled = asyncio.create_task(wanted.wait())
        await asyncio.wait({ended, signalled}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if ended.done():
            break
        with suppress(ProcessLookupError):
            process.send_signal(number)
    return await ended
