"""The program as a process of its own, read line by line while it runs."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from tests.cli.warm import WarmProcess

PATIENCE_SECONDS = 60.0
MODULE = ("-m", "engine")


class Program:
    """`python -m engine …`, or another `entry`. Output is collected, so that a full pipe never stops it.

    Unless it `is_cold` or has another entry, its imports have been done before, see `WarmProcess`.
    """

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str] | None = None,
        stdin: bytes | None = None,
        entry: Sequence[str] = MODULE,
        is_cold: bool = False,
    ) -> None:
        environment = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | WarmProcess
        if entry == MODULE and not is_cold:
            self.process = WarmProcess(
                arguments, env=environment, has_stdin=stdin is not None, folder=str(Path.cwd())
            )
        else:
            self.process = subprocess.Popen(
                [sys.executable, *entry, *arguments],
                stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        self.output: list[str] = []
        self.errors: list[str] = []
        self._threads = [
            self._collect(self.process.stdout, self.output),
            self._collect(self.process.stderr, self.errors),
        ]
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def _collect(self, stream: IO[bytes] | None, lines: list[str]) -> threading.Thread:
        assert stream is not None

        def read() -> None:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip("\n")
                lines.append(line)
                self._lines.put(line)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        return thread

    def line(self, wanted: Callable[[str], bool] | str) -> str:
        """The next line, of either stream, that holds `wanted`."""
        matches = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        while True:
            try:
                line = self._lines.get(timeout=PATIENCE_SECONDS)
            except queue.Empty:
                raise AssertionError(f"no line with {wanted!r} in {self.output + self.errors}") from None
            if matches(line):
                return line

    def event(self, name: str) -> dict[str, Any]:
        """The next JSON log line of that name."""
        found: dict[str, Any] = json.loads(self.line(f'"msg": "{name}"'))
        return found

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code, after all output has been read."""
        code = self.process.wait(timeout=PATIENCE_SECONDS)
        for thread in self._threads:
            thread.join(timeout=PATIENCE_SECONDS)
        return code

    @property
    def text(self) -> str:
        return "\n".join(self.output)

    @property
    def error_text(self) -> str:
        return "\n".join(self.errors)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def wait_for_file(path: Path, program: Program) -> None:
    """Until a task of `program` has written `path`; fails as soon as the program ends without it."""
    while not (path.exists() and path.read_text()):
        try:
            program.process.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"ended without writing {path}: {program.error_text}")


def wait_until_gone(pid: int) -> None:
    """Until the process has ended; a zombie that nobody has collected yet has ended too."""
    try:
        process = psutil.Process(pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            try:
                process.wait(0.05)
            except psutil.TimeoutExpired:
                continue
            return
    except psutil.NoSuchProcess:
        return


def without_times(text: str) -> list[str]:
    """Lines of logs, each of which must begin with the time of `at`."""
    lines = [re.fullmatch(r"\d\d:\d\d:\d\d (.*)", line) for line in text.splitlines()]
    return [line[1] if line else "" for line in lines]
