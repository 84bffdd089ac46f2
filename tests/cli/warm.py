"""Processes that begin with everything imported: forked from one that has done nothing else.

While `python -m engine` imports for a second, such a process serves already. Each is a process of its own all
the same, in a session of its own, with its own environment, folder and streams.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.reduction import DupFd
from typing import IO, Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.cli.warmth"])


class WarmProcess:
    """As far as `Program` needs it, a `subprocess.Popen` of `python -m engine` with these arguments."""

    def __init__(
        self, arguments: Sequence[str], *, env: Mapping[str, str], has_stdin: bool, folder: str
    ) -> None:
        theirs, ours = zip(*(_pipe(for_writing=n > 0) for n in range(3)), strict=True)
        if not has_stdin:
            os.close(ours[0])
        try:
            given = [_Descriptor(each) for each in theirs]
            self._process = _context.Process(  # type: ignore[attr-defined]
                target=_begin, args=(list(arguments), dict(env), folder, given)
            )
            self._process.start()
        finally:
            for each in theirs:
                os.close(each)
        self.stdin: IO[bytes] | None = os.fdopen(ours[0], "wb") if has_stdin else None
        self.stdout: IO[bytes] = os.fdopen(ours[1], "rb")
        self.stderr: IO[bytes] = os.fdopen(ours[2], "rb")

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    @property
    def returncode(self) -> int | None:
        code: int | None = self._process.exitcode
        return code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired("engine", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Descriptor:
    """A file descriptor that is handed on: there it arrives as a number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        return _received, (DupFd(self._number),)


def _received(descriptor: Any) -> int:
    number: int = descriptor.detach()
    return number


def _pipe(*, for_writing: bool) -> tuple[int, int]:
    """Their end and ours."""
    reads, writes = os.pipe()
    return (writes, reads) if for_writing else (reads, writes)


def _begin(arguments: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["engine", *arguments]
    code = 1
    try:
        runpy.run_module("engine", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 1
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    sys.exit(code)
