"""The one way to run a subprocess: bounded, watched, and ended together with everything it started.

Each process is owned by one thread of its own. Only that thread signals and reaps it, so no number of a
process or group is ever used after the system may have given it to a stranger.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from engine.executors.processes import (
    KILL_SECONDS,
    descendants,
    find_marked,
    has_exited,
    kill_marked,
    signal_each,
    signal_group,
)
from engine.executors.text import readable
from engine.model.outcomes import Usage

DRAIN_SECONDS = 0.5  # for output of processes that the main one left behind
MARK = "ENGINE_ATTEMPT_MARK"

_CHUNK_BYTES = 64 * 1024
_MAX_LINE = 8 * 1024  # characters of one log line
_SLOWEST_LOOK = 0.25  # seconds between looks whether a process with open output has ended
_FASTEST_LOOK = 0.001


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """`returncode` is the exit status, or minus the number of the signal that ended the process."""

    returncode: int
    stdout: str
    stderr: str
    usage: Usage

    @property
    def exit_code(self) -> int:
        """As the ExecGo contract counts: -1 when the process did not exit by itself."""
        return max(self.returncode, -1)

    @property
    def description(self) -> str:
        """Go's words: `exit status 2`, `signal: killed`."""
        if self.returncode >= 0:
            return f"exit status {self.returncode}"
        name = signal.strsignal(-self.returncode) or f"signal {-self.returncode}"
        return f"signal: {name.split(':')[0].lower()}"


async def run_process(
    context: TaskContext,
    argv: Sequence[str],
    *,
    settings: ExecutorSettings,
    cwd: Path | None = None,
    merge_streams: bool = False,
    env: dict[str, str] | None = None,
) -> ProcessResult:
    """Run `argv` (the program by absolute path) and return when its whole tree has ended.

    Raises `OSError` or `ValueError` if it cannot be started. When the caller is cancelled, the tree gets
    SIGTERM, after the grace period SIGKILL, and only then the cancellation goes on.
    """
    child = _Child(context, argv, settings=settings, cwd=cwd, merge_streams=merge_streams, env=env or {})
    ended = _in_thread(child.run, name=f"process of task {context.lease.task_id}")
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        child.stop()
        await _settle(ended, settings.kill_grace_seconds + 2 * KILL_SECONDS)
        raise


def find_program(command: str) -> str | None:
    """Absolute path of `command` on the fixed PATH, whatever PATH the worker itself was started with."""
    return shutil.which(command, path=FIXED_PATH)


class _Child:
    """A process, its pipes and its descendants, for the thread that calls `run`."""

    def __init__(
        self,
        context: TaskContext,
        argv: Sequence[str],
        *,
        settings: ExecutorSettings,
        cwd: Path | None,
        merge_streams: bool,
        env: dict[str, str],
    ) -> None:
        markers = {**attempt_environment(context.lease), **context.environment}
        self._mark = markers[MARK]
        self._environment = scrubbed_environment({**env, **markers})
        self._argv = _limited(argv, settings.limits)
        self._cwd = cwd
        self._grace = settings.kill_grace_seconds
        self._merge_streams = merge_streams
        self._captures = {
            name: _Capture(name, settings.limits.output_bytes, context.log) for name in ("stdout", "stderr")
        }
        self._stopping = False
        self._waker, self._wake = socket.socketpair()

    def stop(self) -> None:
        """Ask the owning thread to end the tree. From any thread, at any time, any number of times."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._waker.send(b"!", socket.MSG_DONTWAIT)

    def run(self) -> ProcessResult:
        own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with self._waker, self._wake, selectors.PollSelector() as selector:
            pipes = _Pipes(selector)
            try:
                process = self._spawn(pipes)
                try:
                    is_clean = self._watch(process.pid, pipes)
                    pipes.drain()
                finally:
                    # A clean end left nothing that we know of; the group is one cheap call all the same.
                    signal_group(process.pid, signal.SIGKILL)
                status, used = _reap(process)
            finally:
                pipes.close()
        del is_clean
        return ProcessResult(
            status,
            self._captures["stdout"].finish(),
            self._captures["stderr"].finish(),
            _usage(used, own_peak),
        )
