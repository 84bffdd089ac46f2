"""Worker pools that faults are done to, and the record of what was done."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from engine.executors.base import ExecutorSettings
from engine.executors.processes import find_marked, kill_marked, signal_each
from engine.model.graph import Dependency, Graph, TaskSpec
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import submits
from engine.store.database import Database
from engine.worker.guardian import boot_time
from engine.worker.options import WorkerOptions
from engine.worker.pool import PoolSpec
from tests.chaos import ledger
from tests.chaos.oracle import Look

MARK = "CHAOS_MARK"
SHORT = WorkerOptions(
    concurrency=2, lease_seconds=3.0, beat_seconds=0.75, sweep_seconds=0.5, poll_seconds=0.5, grace_seconds=5
)


def wait_until(is_true: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """The first answer that is true. Fails if there is none in `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := is_true()):
        assert time.monotonic() < deadline, f"not true after {seconds} s: {what or is_true}"
        time.sleep(0.05)
    return answer


def random_graph(tasks: int, seed: int, *, ms: tuple[int, int] = (20, 500), failing: float = 0.05) -> Graph:
    """Each task waits for up to three of the hundred before it; some fail at their first attempt."""
    dice = random.Random(seed)
    retry = RetryPolicy(max_attempts=3, max_crashes=5, backoff=Backoff.FIXED, initial_ms=50)
    specs = []
    for number in range(tasks):
        near = range(max(0, number - 100), number)
        parents = dice.sample(near, min(len(near), dice.choice((0, 1, 1, 2, 3))))
        specs.append(
            TaskSpec(
                name=f"t{number}",
                kind="ledger",
                params={"ms": dice.randint(*ms), "fails": int(dice.random() < failing)},
                retry=retry,
                depends_on=tuple(Dependency(f"t{parent}") for parent in parents),
            )
        )
    return Graph(tuple(specs), name=f"random {tasks}")


def submit_graph(url: str, graph: Graph) -> None:
    database = Database(url, wake_others=False)
    try:
        asyncio.run(submits.submit(database, graph))
    finally:
        database.close()


@dataclass
class Pool:
    """A supervisor with its workers. Every process of it carries `CHAOS_MARK`."""

    url: str
    folder: Path
    processes: int = 1
    options: WorkerOptions = field(default_factory=lambda: SHORT)
    wake_others: bool = True
    within: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.own = self.folder / self.mark
        self.temporary = self.own / "tmp"
        self.temporary.mkdir(parents=True)
        self.ledger = self.folder / "ledger"
        self._seen: set[psutil.Process] = set()
        self.log = self.own / "log"
        path = ledger.install(self.own / "packages")
        settings = ExecutorSettings(file_root=self.own)
        spec = PoolSpec(self.url, self.processes, self.options, settings, self.wake_others)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        extra = {MARK: self.mark, ledger.LEDGER: str(self.ledger), "PYTHONPATH": path}
        with self.log.open("wb") as log:
            self.supervisor = subprocess.Popen(
                [*self.within, sys.executable, "-m", "tests.chaos.supervisor"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**kept, **extra, "TMPDIR": str(self.temporary)},
            )
        assert self.supervisor.stdin is not None
        self.supervisor.stdin.write(spec.to_line())
        self.supervisor.stdin.flush()

    def workers(self) -> list[psutil.Process]:
        return [process for process in self._living() if _runs(process, "engine.worker.process")]

    def guardians(self) -> list[psutil.Process]:
        return [process for process in self._living() if _runs(process, "engine.worker.guardian")]

    def _living(self) -> list[psutil.Process]:
        """By descent and by mark: a worker lets nobody look into its environment."""
        with suppress(psutil.Error):
            self._seen.update(psutil.Process(self.supervisor.pid).children(recursive=True))
        self._seen.update(find_marked(MARK, self.mark))
        return [process for process in self._seen if _lives(process)]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """What its processes have logged under this name."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and f'"msg": "{event}"' in line]

    def stop(self, seconds: float = 60.0) -> None:
        """Drain, and check that nothing is left (O14)."""
        self._living()
        self.supervisor.send_signal(signal.SIGTERM)
        self.supervisor.wait(seconds)
        assert self.supervisor.stdin is not None
        self.supervisor.stdin.close()
        left = [" ".join(process.cmdline()) for process in self._living()]
        assert not left, f"left behind: {left}"
        assert not list(self.temporary.iterdir()), f"left behind: {list(self.temporary.iterdir())}"

    def kill(self) -> None:
        """End all of it at once."""
        signal_each(self._living(), signal.SIGKILL)
        kill_marked(MARK, self.mark)
        if self.supervisor.poll() is None:
            self.supervisor.kill()
        self.supervisor.wait(10)
        if self.supervisor.stdin is not None:
            self.supervisor.stdin.close()


@contextmanager
def pool(url: str, folder: Path, **options: Any) -> Iterator[Pool]:
    made = Pool(url, folder, **options)
    try:
        yield made
        if made.supervisor.poll() is None:
            made.stop()
    finally:
        made.kill()


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _runs(process: psutil.Process, module: str) -> bool:
    try:
        return module in process.cmdline()
    except psutil.Error:
        return False


class Faults:
    """The fault ledger: what was done to which session, and when on the boot-time clock."""

    def __init__(self, look: Look, pool: Pool, seed: int) -> None:
        self._look = look
        self._pool = pool
        self._dice = random.Random(seed)
        self.killed: dict[int, float] = {}  # session → when
        self.server_ready: list[float] = []

    def kill_one(self) -> None:
        """SIGKILL a worker that holds leases."""
        living = {process.pid: process for process in self._pool.workers()}
        holders = [(sid, pid) for sid, pid in self._look.holders() if pid in living]
        if not holders:
            return
        session, pid = self._dice.choice(holders)
        living[pid].kill()
        self.killed[session] = boot_time()


def descriptors(pid: int) -> int:
    return psutil.Process(pid).num_fds()
