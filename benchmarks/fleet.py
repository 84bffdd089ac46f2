"""Engine processes under test, each a process of its own, and what they use of the machine."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
import psutil
import sqlalchemy as sa

from engine.executors.base import ExecutorSettings
from engine.model.graph import Graph, TaskSpec
from engine.operations import submits
from engine.operations.submits import Accepted
from engine.store.database import Database
from engine.store.schema import run
from engine.worker.options import WorkerOptions
from engine.worker.pool import PoolSpec

T = TypeVar("T")
Served = AbstractContextManager[tuple[str, "Process"]]
# What our documentation tells people with many short tasks; peers get their own best settings.
FAST = WorkerOptions(concurrency=1000)
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 600.0
_START_SECONDS = 30.0


# --- processes


@dataclass(slots=True)
class Process:
    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        return self.popen.pid

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def check(self) -> None:
        """Raise `RuntimeError` if it has ended or logged an error: there is nothing to wait for then."""
        errors = [event for event in self.events() if event["level"] == "ERROR"]
        if errors or self.popen.poll() is not None:
            raise RuntimeError(f"a process is in trouble: {errors or self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ask it to end in good order; SIGKILL if it does not."""
        self.popen.terminate()
        try:
            self.popen.wait(60)
        finally:
            self.popen.kill()
            self.popen.wait()
            if self.popen.stdin is not None:
                self.popen.stdin.close()


@contextmanager
def workers(
    url: str,
    count: int = 1,
    options: WorkerOptions = FAST,
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[Process]]:
    """`count` worker processes as `task-engine worker` starts them; stopped at the end of the block."""
    with _folder() as folder, ExitStack() as stack:
        spec = PoolSpec(url, 1, options, ExecutorSettings(file_root=folder))
        command = [sys.executable, "-m", "engine.worker.process"]
        started = []
        for number in range(count):
            process = _start(command, folder / f"worker{number}.log", environment, stdin=subprocess.PIPE)
            stack.callback(process.stop)
            started.append(process)
        for process in started:
            assert process.popen.stdin is not None
            process.popen.stdin.write(spec.to_line())
            process.popen.stdin.flush()
        yield started


@contextmanager
def server(url: str, *flags: str, program: Sequence[str] = ("-m", "engine")) -> Iterator[tuple[str, Process]]:
    """A REST server and its address, without workers unless `flags` say otherwise."""
    address = f"127.0.0.1:{_free_port()}"
    flags = (*flags, "--workers", "0") if "--workers" not in flags else flags
    command = [sys.executable, *program, "server", "start", "--db", url, "--addr", address, *flags]
    with _folder() as folder:
        process = _start(command, folder / "server.log", {"ENGINE_MAX_OPEN_TASKS": "0"})
        try:
            wait_until(lambda: _answers(f"http://{address}/health", process), _START_SECONDS)
            yield f"http://{address}", process
        finally:
            process.stop()


def run_child(*arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `python -m …` to its end; returns the JSON document of its last line."""
    done = subprocess.run(
        child(*arguments),
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, **(environment or {})},
        timeout=_PATIENCE_SECONDS,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def child(*arguments: str) -> list[str]:
    """The command `python -m …` of this environment."""
    return [sys.executable, "-m", *arguments]


def _start(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None, stdin: int = subprocess.DEVNULL
) -> Process:
    with log.open("wb") as output:
        popen = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    return Process(popen, log)


def _answers(url: str, process: Process) -> bool:
    assert process.popen.poll() is None, f"the server ended:\n{process.log.read_text()}"
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=1).is_success
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="task-engine-bench-") as folder:
        yield Path(folder)


# --- what they use


@dataclass(slots=True)
class Usage:
    """CPU of processes and their children between `begin` and `end`, seconds."""

    pids: Sequence[int]
    _before: float = field(default=0.0, init=False)

    @classmethod
    def begin(cls, *pids: int | None) -> Self:
        usage = cls([pid for pid in pids if pid is not None])
        usage._before = usage._total()
        return usage

    def seconds(self) -> float:
        return self._total() - self._before

    def _total(self) -> float:
        total = 0.0
        for pid in self.pids:
            process = psutil.Process(pid)
            for one in (process, *process.children(recursive=True)):
                with suppress(psutil.Error):
                    times = one.cpu_times()
                    total += times.user + times.system
            ended = process.cpu_times()
            total += ended.children_user + ended.children_system
        return total


def rss_mib(pid: int) -> float:
    return psutil.Process(pid).memory_info().rss / 1024**2


# --- what they work on


def tasks_graph(count: int, kind: str = "noop", params: Any = None) -> Graph:
    """`count` tasks that do not depend on each other."""
    return Graph(tuple(TaskSpec(f"t{number}", kind, params) for number in range(count)))


def submit(url: str, *graphs: Graph) -> list[Accepted]:
    """Store each graph as a run of its own, and give the database back."""
    with opened(url) as database:
        return [asyncio.run(submits.submit(database, graph)) for graph in graphs]


@contextmanager
def opened(url: str) -> Iterator[Database]:
    database = Database(url, wake_others=False)
    try:
        yield database
    finally:
        database.close()


def wait_until_done(database: Database, workers: Sequence[Process] = ()) -> None:
    """Wait until no run is open. Raises `RuntimeError` if one of `workers` ends or logs an error.

    Asks seldom: on a shared SQLite file who reads holds up who writes.
    """

    def is_done() -> bool:
        for process in workers:
            process.check()
        return not _is_open(database)

    wait_until(is_done, _PATIENCE_SECONDS)


def _is_open(database: Database) -> bool:
    return database.read_sync(lambda tx: tx.execute(_OPEN).first()) is not None


MARK = "/* looking on */"  # begins our own statements, so that those who count can leave them out
_OPEN = sa.select(run.c.id).where(run.c.finished_at.is_(None)).limit(1).prefix_with(MARK)


def time_of_work(database: Database, run_id: int | None = None) -> tuple[int, float]:
    """(tasks done, seconds from the first claim to the last finish), by the database's own times."""
    query = _SPAN if run_id is None else _SPAN.where(run.c.id == run_id)
    first, last, done = database.read_sync(lambda tx: tx.execute(query).one())
    return int(done), (last - first).total_seconds()


_SPAN = sa.select(
    sa.func.min(run.c.started_at, type_=run.c.started_at.type),
    sa.func.max(run.c.finished_at, type_=run.c.finished_at.type),
    sa.func.sum(run.c.succeeded),
).prefix_with(MARK)


def wait_until(is_true: Callable[[], T], seconds: float, every: float = _POLL_SECONDS) -> T:
    """The first answer that is true. Raises `TimeoutError` if there is none in `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := is_true()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true after {seconds} s")
        time.sleep(every)
    return answer
