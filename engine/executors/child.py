"""A process with everything it starts, owned by one thread.

Only that thread signals and reaps it, and it reaps last: so no number of a process or group is used after
the system may have given it to a stranger.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from engine.executors.output import Capture
from engine.executors.processes import (
    KILL_SECONDS,
    descendants,
    find_marked,
    find_writers,
    has_exited,
    kill_marked,
    signal_each,
    signal_group,
)
from engine.model.outcomes import Usage

MARK = "ENGINE_ATTEMPT_MARK"
DRAIN_SECONDS = 0.5  # for output of processes that the main one left behind

_CHUNK_BYTES = 64 * 1024
_SLOWEST_LOOK = 0.25  # seconds between looks whether a process has ended while its pipes stay open
_FASTEST_LOOK = 0.001
_SETTLE_SECONDS = 0.02  # from the death of a process to the end of its pipes


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
        """In Go's words: `exit status 2`, `signal: killed`."""
        if self.returncode >= 0:
            return f"exit status {self.returncode}"
        name = signal.strsignal(-self.returncode) or str(-self.returncode)
        return f"signal: {name.split(':')[0].lower()}"  # macOS says "Killed: 9"


class Child:
    """`run` blocks its thread until the whole tree has ended; `stop` may be called from any other."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: dict[str, str],
        *,
        cwd: Path,
        stdout: Capture,
        stderr: Capture | None,
        grace_seconds: float,
    ) -> None:
        """Without a capture of its own, stderr goes where stdout goes. `environment` must hold the mark."""
        self._argv = argv
        self._environment = environment
        self._cwd = cwd
        self._stdout = stdout
        self._stderr = stderr
        self._grace_seconds = grace_seconds
        self._stopping = False
        self._waker, self._wake = socket.socketpair()
        self._connected: list[psutil.Process] = []

    def stop(self) -> None:
        """Ask for the end of the tree: SIGTERM, grace period, SIGKILL."""
        self._stopping = True
        with contextlib.suppress(OSError):  # `run` is over, or has been told already
            self._waker.send(b"!", socket.MSG_DONTWAIT)

    def run(self) -> ProcessResult:
        """Raises `OSError` or `ValueError` if the process cannot be started."""
        own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with self._waker, self._wake, _Pipes(self._wake) as pipes:
            process = self._spawn(pipes)
            try:
                self._watch(process.pid, pipes)
            finally:
                self._end(process.pid, pipes)
                returncode, used = _reap(process)
            pipes.drain()
        stderr = self._stderr.finish() if self._stderr else ""
        return ProcessResult(returncode, self._stdout.finish(), stderr, _usage(used, own_peak))

    def _spawn(self, pipes: _Pipes) -> subprocess.Popen[bytes]:
        if self._stopping:
            raise InterruptedError("stopped before it was started")
        stdout = pipes.add(self._stdout.feed)
        stderr = pipes.add(self._stderr.feed) if self._stderr else subprocess.STDOUT
        # Nobody writes to the lifeline. Every descendant inherits it, so its end of file says that the
        # tree is gone, even when a background process has sent its output elsewhere.
        lifeline = pipes.add(lambda chunk: None)
        try:
            return subprocess.Popen(  # noqa: S603 - what may run is decided by the executors
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                pass_fds=(lifeline,),
                cwd=self._cwd,
                env=self._environment,
                start_new_session=True,
            )
        finally:
            pipes.close_writers()

    def _watch(self, pid: int, pipes: _Pipes) -> None:
        """Return when the tree is gone, or when the time it was given is over."""
        deadline, pause = math.inf, _SLOWEST_LOOK
        is_told = is_over = False
        while not (is_over and not pipes.are_open) and time.monotonic() < deadline:
            a_pipe_closed = pipes.wait(min(pause, max(deadline - time.monotonic(), 0)))
            pause = _FASTEST_LOOK if a_pipe_closed else min(2 * pause, _SLOWEST_LOOK)
            if self._stopping and not is_told:
                is_told = True
                deadline = time.monotonic() + self._grace_seconds
                self._terminate(pid, pipes)
            if not is_over and has_exited(pid):
                is_over = True
                if not is_told:
                    deadline = time.monotonic() + DRAIN_SECONDS

    def _terminate(self, pid: int, pipes: _Pipes) -> None:
        # Noted now: once their parents are dead nothing but the mark and the pipes connects them to us.
        self._connected = descendants(pid)
        signal_group(pid, signal.SIGTERM)
        marked = find_marked(MARK, self._environment[MARK])
        signal_each([*self._connected, *marked, *find_writers(pipes.readers)], signal.SIGTERM)

    def _end(self, pid: int, pipes: _Pipes) -> None:
        signal_group(pid, signal.SIGKILL)
        if self._stopping or pipes.are_open:
            signal_each(self._connected, signal.SIGKILL)
            kill_marked(MARK, self._environment[MARK])
            self._end_unmarked(pipes)

    def _end_unmarked(self, pipes: _Pipes) -> None:
        """A process that has left its group and wiped its environment still has our pipes."""
        give_up = time.monotonic() + KILL_SECONDS
        while pipes.are_open and time.monotonic() < give_up:
            if not pipes.wait(_SETTLE_SECONDS):  # else the dead are being taken apart
                signal_each(find_writers(pipes.readers), signal.SIGKILL)


class _Pipes:
    """The read ends of a child's pipes. Each is open until nobody holds its other end."""

    def __init__(self, wake: socket.socket) -> None:
        self._selector = selectors.PollSelector()
        self._wake = wake
        self._selector.register(wake, selectors.EVENT_READ)
        self._sinks: dict[int, Callable[[bytes], None]] = {}
        self._writers: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        self.close_writers()
        for reader in self._sinks:
            os.close(reader)
        self._sinks.clear()

    def add(self, sink: Callable[[bytes], None]) -> int:
        """Make a pipe whose content goes to `sink`; returns the write end."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._sinks[reader] = sink
        self._writers.append(writer)
        self._selector.register(reader, selectors.EVENT_READ)
        return writer

    def close_writers(self) -> None:
        while self._writers:
            os.close(self._writers.pop())

    @property
    def are_open(self) -> bool:
        return bool(self._sinks)

    @property
    def readers(self) -> list[int]:
        return list(self._sinks)

    def wait(self, seconds: float) -> bool:
        """Take what there is, waiting for it if need be; say whether a pipe was closed."""
        before = len(self._sinks)
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._wake:
                self._selector.unregister(self._wake)
            else:
                self._read(key.fd)
        return len(self._sinks) < before

    def drain(self) -> None:
        """Take what dead processes left in the pipes."""
        for reader in list(self._sinks):
            while self._read(reader):
                pass

    def _read(self, reader: int) -> bool:
        try:
            chunk = os.read(reader, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if chunk:
            self._sinks[reader](chunk)
        else:
            self._selector.unregister(reader)
            del self._sinks[reader]
            os.close(reader)
        return bool(chunk)


def _reap(process: subprocess.Popen[bytes]) -> tuple[int, resource.struct_rusage]:
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait as well
    return process.returncode, used


def _usage(used: resource.struct_rusage, own_peak: int) -> Usage:
    """The peak is unknown below our own: at exec, Linux counts the memory of the starting process in."""
    cpu_ms = round((used.ru_utime + used.ru_stime) * 1000)
    if used.ru_maxrss <= own_peak:
        return Usage(cpu_ms, None)
    return Usage(cpu_ms, used.ru_maxrss // 1024 if sys.platform == "darwin" else used.ru_maxrss)
