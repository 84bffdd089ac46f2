"""The one way to run a subprocess: scrubbed, limited, watched, and ended with everything it started."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from engine.executors.base import (
    FIXED_PATH,
    ExecutorSettings,
    ProcessLimits,
    TaskContext,
    attempt_environment,
    scrubbed_environment,
)
from engine.executors.child import Child, ProcessResult
from engine.executors.output import Capture
from engine.executors.processes import KILL_SECONDS, kill_marked
from engine.executors.text import shorten

__all__ = [
    "ProcessResult",
    "find_program",
    "in_thread",
    "kill_marked",
    "refuse_nul",
    "resolve_program",
    "run_process",
]

T = TypeVar("T")


async def run_process(
    context: TaskContext,
    argv: Sequence[str],
    *,
    settings: ExecutorSettings,
    cwd: Path | None = None,
    merge_streams: bool = False,
    env: dict[str, str] | None = None,
) -> ProcessResult:
    """Run `argv`, program by absolute path, in `cwd` or the file root; return when its tree has ended.

    Raises `OSError` or `ValueError` if it cannot be started. When the caller is cancelled, the tree gets
    SIGTERM, after the grace period SIGKILL, and only then the cancellation goes on.
    """
    keep = settings.limits.output_bytes
    child = Child(
        _limited(argv, settings.limits),
        # The markers come last: what finds leftovers is not for a task to change.
        scrubbed_environment({**(env or {}), **attempt_environment(context.lease), **context.environment}),
        cwd=cwd or settings.file_root,
        stdout=Capture("stdout", keep, context.log),
        stderr=None if merge_streams else Capture("stderr", keep, context.log),
        grace_seconds=settings.kill_grace_seconds,
    )
    ended = in_thread(child.run, name=f"process of task {context.lease.task_id}")
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        child.stop()
        await _settle(ended, settings.kill_grace_seconds + 2 * KILL_SECONDS)
        raise


def find_program(command: str) -> str | None:
    """Absolute path of `command` on the fixed PATH, whatever PATH the worker itself was started with."""
    return shutil.which(command, path=FIXED_PATH)


def resolve_program(command: str, cwd: Path) -> str:
    """Absolute path for `command`: a bare name is found on the fixed PATH, a path starts at `cwd`.

    Raises `ValueError` in Go's words, as the ExecGo contract has them.
    """
    if "/" in command:
        return str(cwd.absolute() / command)
    program = find_program(command)
    if program is None:
        raise ValueError(f'exec: "{shorten(command, 100)}": executable file not found in $PATH')
    return program


def refuse_nul(*texts: str) -> None:
    """Raises `ValueError`: to the operating system a NUL ends the text, so the rest would be lost."""
    for text in texts:
        if "\0" in text:
            raise ValueError(f'"{shorten(text, 100)}" contains a NUL character')


def _limited(argv: Sequence[str], limits: ProcessLimits) -> list[str]:
    """`argv` behind a shell that sets the limits on itself first, so that they hold from the start.

    A function run between fork and exec would do the same, but is not safe in a process with threads.
    """
    steps = []
    if limits.memory_mib is not None:
        steps.append(f"ulimit -v {_within(resource.RLIMIT_AS, limits.memory_mib * 2**20) // 1024}")
    if limits.cpu_seconds is not None:
        steps.append(f"ulimit -t {_within(resource.RLIMIT_CPU, limits.cpu_seconds)}")
    if limits.processes is not None:
        count = _within(resource.RLIMIT_NPROC, limits.processes)
        steps.append(f"{{ ulimit -u {count} 2>/dev/null || ulimit -p {count}; }}")  # bash, dash
    if not steps:
        return list(argv)
    script = " && ".join(["ulimit -c 0", *steps, 'exec "$@"'])
    return ["/bin/sh", "-c", script, "sh", *argv]


def _within(kind: int, wanted: int) -> int:
    """`wanted`, or the system's own hard limit where that is lower: asking for more would be refused."""
    _, hard = resource.getrlimit(kind)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run in a thread of its own. A shared pool would let long processes keep others from starting."""
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()

    def body() -> None:
        try:
            result.set_result(work())
        except Exception as error:  # carried over to whoever awaits it
            result.set_exception(error)

    threading.Thread(target=body, name=name, daemon=True).start()
    return asyncio.wrap_future(result)


async def _settle(ended: asyncio.Future[ProcessResult], seconds: float) -> None:
    """Wait for the end of the tree, however often the caller is cancelled meanwhile."""
    loop = asyncio.get_running_loop()
    give_up = loop.time() + seconds
    while not ended.done() and loop.time() < give_up:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({ended}, timeout=give_up - loop.time())
    if ended.done() and not ended.cancelled():
        ended.exception()  # looked at, so that asyncio does not report it as forgotten
