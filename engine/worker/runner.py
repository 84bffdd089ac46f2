"""One attempt: executor, timeout, cancellation, and whatever happens as an outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from enum import StrEnum

from engine.errors import LeaseLost, UnknownKind
from engine.executors.base import TaskContext, attempt_environment
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import TaskSpec
from engine.model.json import JSON
from engine.model.outcomes import Cancelled, Failed, Outcome, Released
from engine.model.records import Lease
from engine.operations import tasks
from engine.store.database import Database
from engine.worker import capture
from engine.worker.logbook import AttemptLog, Logbook


class Stop(StrEnum):
    """Why an attempt was interrupted from outside."""

    CANCEL = "cancel"  # somebody asked for it: recorded as cancelled
    RELEASE = "release"  # the worker stops: given back unfinished
    LOST = "lost"  # the lease is gone: nothing may be recorded


class Attempt:
    """One attempt under way. `run` returns its outcome, None if the lease was lost."""

    def __init__(
        self, lease: Lease, database: Database, registry: ExecutorRegistry, book: Logbook, actor: str
    ) -> None:
        self.lease = lease
        self._database = database
        self._registry = registry
        self._actor = actor
        self._log: AttemptLog = book.open(lease)
        self._stop: Stop | None = None
        self._cancelled = asyncio.Event()
        self._handle: asyncio.Task[Outcome] | None = None

    async def run(self) -> Outcome | None:
        self._handle = asyncio.create_task(self._perform(), name=f"task-{self.lease.task_id}")
        if self._stop is not None:
            self._handle.cancel()
        try:
            outcome = await self._handle
        except asyncio.CancelledError:
            if self._stop is None:
                raise  # our own caller is being cancelled
            outcome = Released()
        self._log.close()
        match self._stop:
            case Stop.LOST:
                return None
            case Stop.CANCEL if isinstance(outcome, Failed | Released):
                return Cancelled()
            case _:
                return outcome

    def stop(self, why: Stop) -> None:
        """Interrupt the attempt; `run` returns as soon as the executor has cleaned up."""
        if self._stop is None:
            self._stop = why
            self._cancelled.set()
            if self._handle is not None:
                self._handle.cancel()

    async def _perform(self) -> Outcome:
        lease = self.lease
        seconds = None if lease.timeout_ms is None else lease.timeout_ms / 1000
        capture.current.set(self._log.write)
        try:
            executor = self._registry.get(lease.kind)
            async with asyncio.timeout(seconds) as limit:
                return await executor.execute(self._context(seconds), lease.params)
        except TimeoutError as error:
            if limit.expired():
                return Failed("context deadline exceeded", code="timeout", source="scheduler", retryable=True)
            return _failed(error)
        except UnknownKind as error:
            return Failed(str(error), code="not_found", source="scheduler", is_permanent=True)
        except (Exception, SystemExit) as error:  # whatever a task does, it must not take the worker along
            return _failed(error)

    def _context(self, seconds: float | None) -> TaskContext:
        return TaskContext(
            lease=self.lease,
            deadline=None if seconds is None else time.monotonic() + seconds,
            cancelled=self._cancelled,
            log=self._log.write,
            spawn=self._spawn,
            report=self._report,
            environment=attempt_environment(self.lease),
        )

    async def _spawn(self, specs: Sequence[TaskSpec]) -> list[int]:
        return await tasks.spawn(self._database, self.lease, specs, actor=self._actor)

    async def _report(self, document: JSON) -> None:
        try:
            await tasks.report(self._database, self.lease, document)
        except LeaseLost:
            self.stop(Stop.LOST)
            raise


def _failed(error: BaseException) -> Failed:
    try:
        text = str(error)
    except Exception:  # an exception of user code may not even be printable
        text = ""
    return Failed(f"{text or type(error).__name__}"[:10_000].replace("\x00", "\\x00"))
