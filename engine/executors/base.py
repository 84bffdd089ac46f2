"""What an executor is, and what it is given for one attempt."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from engine.errors import Conflict
from engine.functions.ports import DurableSteps
from engine.model.graph import TaskSpec
from engine.model.json import JSON
from engine.model.outcomes import Outcome
from engine.model.records import Lease
from engine.streams.ports import StreamStore


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Per attempt, for executors that start processes. `None` leaves the system's own limit."""

    memory_mib: int | None = None
    cpu_seconds: int | None = None
    processes: int | None = None
    output_bytes: int = 1024 * 1024  # kept per stream; more is cut with a mark


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """What the operator allows. Every executor is made with this, once per worker process."""

    file_root: Path = field(default_factory=Path.cwd)
    shell_policy: str = ""  # "open" switches the whitelist off
    allow_scripts: bool = True
    allow_cli_skills: bool = True
    allow_private_network: bool = True  # http and tcp: addresses that are not public
    limits: ProcessLimits = field(default_factory=ProcessLimits)
    protected_files: tuple[Path, ...] = ()  # all of the database, the settings file
    http_body_bytes: int = 1024 * 1024
    kill_grace_seconds: float = 2.0
    functions: tuple[str, ...] = ()  # "package.module" or "package.module:name": what tasks may call
    threads: int = 10  # for functions that block; the worker's concurrency


class Interruption:
    """Whether an attempt is being interrupted, as an `asyncio.Event` says it; made for every attempt."""

    __slots__ = ("_event", "_is_set")

    def __init__(self) -> None:
        self._is_set = False
        self._event: asyncio.Event | None = None  # if somebody waits

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        if not self._is_set:
            self._event = self._event or asyncio.Event()
            await self._event.wait()


class TaskContext:
    """One attempt, as its executor sees it. A worker's provides all of it; others raise `Conflict` for what
    they do not have. What writes is fenced by the attempt's lease and raises `LeaseLost`.

    `deadline` is on `time.monotonic()`; the runner cancels the executor there, so an executor needs it only
    to pass a limit on.
    """

    __slots__ = ("cancelled", "deadline", "draining", "lease")

    def __init__(
        self,
        lease: Lease,
        deadline: float | None,
        cancelled: Interruption,
        draining: Interruption,  # the worker stops: give back what is endless
    ) -> None:
        self.lease = lease
        self.deadline = deadline
        self.cancelled = cancelled
        self.draining = draining

    def log(self, stream: str, text: str) -> None:
        """Append to stdout, stderr or log, from any thread, in any pieces: newlines end lines."""
        raise _unavailable("log")

    async def spawn(self, tasks: Sequence[TaskSpec]) -> list[int]:
        """Add tasks to the running task's own run; returns their ids."""
        raise _unavailable("spawn")

    async def add_sub_tasks(self, tasks: Sequence[TaskSpec]) -> list[int]:
        """As `spawn`; the task is over only when they are, and fails if they do."""
        raise _unavailable("add_sub_tasks")

    async def report(self, document: JSON) -> None:
        """Store a progress document."""
        raise _unavailable("report")

    async def upstream(self, names: Sequence[str] | None = None) -> dict[str, JSON]:
        """What upstream tasks returned, by name: the direct ones that succeeded, or those of `names`."""
        raise _unavailable("upstream")

    def steps(self) -> DurableSteps:
        """What the task has done so far."""
        raise _unavailable("steps")

    async def publish(self, type: str, payload: JSON) -> list[str]:
        """Give an event to event-driven tasks of the run, once they have room; returns their names."""
        raise _unavailable("publish")

    async def are_functions_elsewhere(self, names: Collection[str]) -> bool:
        """Whether a live worker that could take the task has registered all of these functions."""
        raise _unavailable("are_functions_elsewhere")

    async def given_back(self, code: str) -> int:
        """How many attempts of the task before this one were released with `code`, the first dozen."""
        raise _unavailable("given_back")

    def stream(self) -> StreamStore:
        """How far a streaming task has come."""
        raise _unavailable("stream")

    def executor_of(self, kind: str) -> Executor:
        """The executor of a kind of the same worker. Raises `UnknownKind`."""
        raise _unavailable("executor_of")

    @property
    def environment(self) -> dict[str, str]:
        """What every process of the attempt carries: see `attempt_environment`."""
        return attempt_environment(self.lease)

    @property
    def seconds_left(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())


def _unavailable(name: str) -> Conflict:
    return Conflict(f"{name} is not available here")


class Executor(Protocol):
    """Performs one kind. `execute` returns an outcome; an exception becomes a failure that names it, and its
    traceback goes to the attempt's log.

    `category` groups kinds for display. `execute` runs on the worker's event loop and must not block it.
    An executor may also have `schema()`, the JSON Schema of its parameters as a dictionary: it is shown to
    agents, and names that are not in it count as mistakes where parameters are checked strictly.
    """

    kind: ClassVar[str]
    category: ClassVar[str]

    def __init__(self, settings: ExecutorSettings) -> None: ...

    def check(self, params: JSON) -> None:
        """Raise `ValueError` if `params` can never work; called at submit by contracts that ask."""
        ...

    async def execute(self, context: TaskContext, params: JSON) -> Outcome: ...


def attempt_environment(lease: Lease) -> dict[str, str]:
    """Environment variables that every process of an attempt carries.

    They tell user code its fence, and are how leftovers are found when the worker is gone.
    """
    return {
        "ENGINE_RUN_ID": str(lease.run_id),
        "ENGINE_TASK_ID": str(lease.task_id),
        "ENGINE_TASK_NAME": lease.name,
        "ENGINE_ATTEMPT": str(lease.attempt),
        "ENGINE_IDEMPOTENCY_KEY": lease.idempotency_key,
        "ENGINE_SESSION": str(lease.session_id),
        "ENGINE_ATTEMPT_MARK": f"{lease.task_id}-{lease.attempt}-{lease.token[:16]}",
    }


def scrubbed_environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """A small environment for child processes: nothing of ours (database URL, tokens) is inherited."""
    kept = {key: os.environ[key] for key in ("LANG", "LC_ALL", "TZ") if key in os.environ}
    base: dict[str, Any] = {"PATH": FIXED_PATH, "HOME": os.environ.get("HOME", "/"), **kept}
    return {**base, **(extra or {})}


FIXED_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
