"""One attempt: executor, timeout, cancellation, and whatever happens as an outcome."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import StrEnum
from typing import Any, TypeVar

from engine.errors import LeaseLost, StoreUnavailable, UnknownKind
from engine.executors.base import Interruption
from engine.model.json import storable_text
from engine.model.outcomes import Cancelled, Crashed, Declined, Failed, Outcome, Released, Succeeded
from engine.model.records import Lease
from engine.worker import capture
from engine.worker.context import AttemptContext, Surroundings
from engine.worker.inputs import prepare
from engine.worker.logbook import AttemptLog

T = TypeVar("T")

_RETRY_SECONDS = 0.5
_MAX_MESSAGE = 10_000


class Stop(StrEnum):
    """Why an attempt was interrupted from outside."""

    CANCEL = "cancel"  # somebody asked for it: recorded as cancelled
    RELEASE = "release"  # the worker stops: given back unfinished
    LOST = "lost"  # the lease has passed to others: what it still does is counted as late


class Attempt:
    """One attempt under way. `run` returns its outcome, also when the lease is lost: the fence refuses it."""

    def __init__(self, lease: Lease, around: Surroundings) -> None:
        self.lease = lease
        self._around = around
        self._log: AttemptLog = around.book.open(lease)
        self._stop: Stop | None = None
        self._reason = ""
        self._cancelled = Interruption()
        self._handle: asyncio.Task[Any] | None = None

    async def run(self, handle: asyncio.Task[Any]) -> Outcome:
        """Perform the attempt in the asyncio task that calls this: its `handle`, which `stop` interrupts."""
        self._handle = handle
        outcome: Outcome = _CANCELLED_ITSELF
        try:
            if self._stop is None:
                outcome = await self._perform()
        except asyncio.CancelledError:
            if self._stop is None and handle.cancelling():  # not by us: the loop ends
                raise
        finally:
            self._handle = None
            self._log.close()
        match self._stop:
            # What an executor makes of being interrupted is not the task's own failure.
            case Stop.CANCEL if isinstance(outcome, Failed | Cancelled):
                return Cancelled(self._reason)
            case Stop.RELEASE | Stop.LOST if isinstance(outcome, Failed):
                return Released()
            case _:
                return outcome

    @property
    def is_stopping(self) -> bool:
        return self._stop is not None

    def stop(self, why: Stop, reason: str = "") -> None:
        """Interrupt the attempt; `run` returns as soon as the executor has cleaned up. `reason` is for
        `Stop.CANCEL`."""
        if self._stop is None:
            self._stop, self._reason = why, reason
            self._cancelled.set()
            if self._handle is not None:
                self._handle.cancel()

    async def _perform(self) -> Outcome:
        lease = self.lease
        limit: asyncio.Timeout | None = None
        capture.current.set(self._log.write)
        context = AttemptContext(lease, None, self._cancelled, self._around, self._log, self._insist)
        try:
            if context.sub_tasks is not None and (ended := await context.sub_tasks.end()) is not None:
                return ended
            executor = self._around.registry.get(lease.kind)
            params = lease.params
            if lease.inputs is not None:
                params = await prepare(lease, context.upstream, self._around.evaluator)
                if isinstance(params, Declined | Failed):
                    return params
            if lease.timeout_ms is None:
                outcome = await executor.execute(context, params)
            else:
                seconds = lease.timeout_ms / 1000
                context.deadline = time.monotonic() + seconds
                async with asyncio.timeout(seconds) as limit:
                    context.limit = limit
                    outcome = await executor.execute(context, params)
            outcome = _checked(outcome)
            return outcome if context.sub_tasks is None else await context.sub_tasks.wait(outcome)
        except TimeoutError as error:
            if limit is not None and limit.expired():
                assert lease.timeout_ms is not None
                return Failed(_late(lease.timeout_ms), code="timeout", source="scheduler", retryable=True)
            return self._failed(error)
        except UnknownKind as error:
            return Failed(str(error), code="not_found", source="scheduler", is_permanent=True)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # whatever a task does, it must not take the worker along
            return self._failed(error)

    def _failed(self, error: BaseException) -> Failed:
        """The exception as the attempt's error, where it was raised in the attempt's log."""
        self._log.write("log", "".join(traceback.format_exception(error))[-_MAX_MESSAGE:])
        return Failed(_storable(traceback.format_exception_only(error)[-1].strip()))

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """A database that is away for a while is no reason for a task to fail; losing the lease is."""
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            except LeaseLost:
                self.stop(Stop.LOST)
                raise


def _late(timeout_ms: int) -> str:
    """ExecGo's clients know a timeout by how its text ends; the task-engine contract wants the seconds."""
    return f"not done after {timeout_ms / 1000:.3f}".rstrip("0").rstrip(".") + " s: context deadline exceeded"


def _checked(outcome: Outcome) -> Outcome:
    """What an executor returned, fit to be recorded. Plug-ins are not type-checked."""
    match outcome:
        case Succeeded() | Declined() | Released() | Crashed():
            return outcome
        case Failed() | Cancelled():
            return replace(outcome, message=_storable(outcome.message))
        case _:
            return Failed(f"the executor returned {type(outcome).__name__} instead of an outcome")


def _storable(text: str) -> str:
    return storable_text(str(text)[:_MAX_MESSAGE])


_CANCELLED_ITSELF = Failed("the executor was cancelled, and not by the engine")
