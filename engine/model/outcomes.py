"""How an attempt ended, as a value, and what follows from it. The only place where retries are decided."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, NamedTuple, assert_never

from engine.model.json import JSON
from engine.model.records import Lease
from engine.model.retry import RetryPolicy
from engine.model.states import Move

_CRASH_SPREAD_MS = 10_000


class Usage(NamedTuple):
    """What the processes of an attempt consumed, where the operating system could tell."""

    cpu_ms: int | None = None
    max_rss_kib: int | None = None


_UNKNOWN = Usage()


@dataclass(frozen=True, slots=True)
class Succeeded:
    result: JSON = None
    branch: str | None = None  # edges with a condition are taken only if it equals this
    usage: Usage = _UNKNOWN


@dataclass(frozen=True, slots=True)
class Failed:
    """`retryable` is advice for clients; `is_permanent` stops the engine from trying again."""

    message: str
    code: str = "external_failure"
    source: str = "executor"
    retryable: bool = False
    is_permanent: bool = False
    delay_ms: int | None = None  # before the next attempt, in place of what the task's policy says
    result: JSON = None
    details: JSON = None
    usage: Usage = _UNKNOWN

    def error(self) -> dict[str, Any]:
        document: dict[str, Any] = {"code": self.code, "message": self.message, "source": self.source}
        if self.retryable:
            document["retryable"] = True
        if self.details is not None:
            document["details"] = self.details
        return document


NO_REASON = "context canceled"  # of a cancel; a text that ExecGo's clients compare with


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The attempt ended because it was told to."""

    message: str = NO_REASON
    usage: Usage = _UNKNOWN


@dataclass(frozen=True, slots=True)
class Declined:
    """The task was not performed because its condition does not hold. What waits for it is decided as by any
    skipped task."""

    reason: str


@dataclass(frozen=True, slots=True)
class Released:
    """The worker gives the task back unfinished: it stops, or (with a `code`) cannot go on with it now.

    No attempt of the budget is used.
    """

    reason: str = "worker is stopping"
    code: str | None = None
    delay_ms: int = 0  # before somebody takes it


@dataclass(frozen=True, slots=True)
class Crashed:
    """The worker that held the lease is gone; nobody knows how far the attempt came."""

    reason: str = "worker lost"


@dataclass(frozen=True, slots=True)
class Awaiting:
    """The task has done its part: another attempt sums up when the tasks that it added have ended."""


_ELSEWHERE = RetryPolicy(initial_ms=250, max_ms=60_000)


def elsewhere(given_back: int, reason: str, code: str) -> Released:
    """What this worker lacks another one may have. After `given_back` releases with this code, it is asked
    for less and less often."""
    return Released(reason, code, _ELSEWHERE.delay_ms(given_back + 1))


Outcome = Succeeded | Failed | Declined | Cancelled | Released | Crashed | Awaiting


class Decision(NamedTuple):
    """What the finish transaction writes for one attempt."""

    move: Move
    word: str  # recorded in attempt.outcome
    delay_ms: int = 0
    failures: int = 0  # added to the task's counts
    crashes: int = 0
    error: dict[str, Any] | None = None


_SUCCEED = Decision(Move.SUCCEED, "succeeded")


def decide(lease: Lease, outcome: Outcome) -> Decision:
    """Which move an outcome causes, given the budget left when the lease was taken.

    Safe with the counts of claim time: nobody else can change them while the lease is current.
    """
    match outcome:
        case Succeeded():
            return _SUCCEED
        case Cancelled(message=message):
            error = {"code": "cancelled", "message": message, "source": "scheduler"}
            return Decision(Move.CANCEL, "cancelled", error=error)
        case Declined(reason=reason):
            return Decision(Move.DECLINE, "skipped", error={"code": "condition", "message": reason})
        case Released(code=None):
            return Decision(Move.RETRY, "released")
        case Released(reason=reason, code=code, delay_ms=delay_ms):
            given_back = dict[str, Any](code=code, message=reason, source="scheduler")
            return Decision(Move.RETRY, "released", delay_ms, error=given_back)
        case Awaiting():
            return Decision(Move.AWAIT, "awaiting")
        case Failed():
            failures = lease.failures + 1
            if lease.is_cancelling:
                return Decision(Move.CANCEL, "cancelled", failures=1, error=outcome.error())
            if outcome.is_permanent or failures >= lease.retry.max_attempts:
                return Decision(Move.FAIL, "failed", failures=1, error=outcome.error())
            delay_ms = lease.retry.delay_ms(failures) if outcome.delay_ms is None else outcome.delay_ms
            return Decision(Move.RETRY, "failed", delay_ms, failures=1, error=outcome.error())
        case Crashed(reason=reason):
            crashes = lease.crashes + 1
            error = dict[str, Any](code="worker_lost", message=reason, source="scheduler", retryable=True)
            if lease.is_cancelling:
                return Decision(Move.CANCEL, "crashed", crashes=1, error=error)
            if crashes >= lease.retry.max_crashes:
                return Decision(Move.FAIL, "crashed", crashes=1, error=error)
            # What crashed together twice is taken apart: the guilty task must not use up the others' budgets.
            delay_ms = random.randrange(_CRASH_SPREAD_MS) if crashes > 1 else 0
            return Decision(Move.RETRY, "crashed", delay_ms, crashes=1, error=error)
        case _:
            assert_never(outcome)
