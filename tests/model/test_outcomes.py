"""`decide` as a table: outcome × budget left × whether somebody asked to stop."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engine.model.outcomes import Awaiting, Cancelled, Crashed, Failed, Outcome, Released, Succeeded, decide
from engine.model.records import Lease
from engine.model.retry import Backoff, RetryPolicy
from engine.model.states import Move

POLICY = RetryPolicy(max_attempts=3, max_crashes=2, backoff=Backoff.FIXED, initial_ms=500, jitter=0)


def lease(**fields: Any) -> Lease:
    whole = Lease(1, 1, "a", "noop", None, 1, "t", 1, None, POLICY, 0, 0)
    return whole._replace(**fields)


@pytest.mark.parametrize(
    ("held", "outcome", "move", "word", "failures", "crashes", "delay_ms"),
    [
        (lease(), Succeeded(), Move.SUCCEED, "succeeded", 0, 0, 0),
        (lease(is_cancelling=True), Succeeded(), Move.SUCCEED, "succeeded", 0, 0, 0),
        (lease(failures=2, crashes=1), Succeeded(), Move.SUCCEED, "succeeded", 0, 0, 0),
        (lease(), Cancelled(), Move.CANCEL, "cancelled", 0, 0, 0),
        (lease(), Released(), Move.RETRY, "released", 0, 0, 0),
        (lease(failures=2, crashes=1), Released(), Move.RETRY, "released", 0, 0, 0),
        (lease(), Awaiting(), Move.AWAIT, "awaiting", 0, 0, 0),
        (lease(), Failed("no"), Move.RETRY, "failed", 1, 0, 500),
        (lease(failures=1), Failed("no"), Move.RETRY, "failed", 1, 0, 500),
        (lease(failures=2), Failed("no"), Move.FAIL, "failed", 1, 0, 0),
        (lease(), Failed("no", is_permanent=True), Move.FAIL, "failed", 1, 0, 0),
        (lease(is_cancelling=True), Failed("no"), Move.CANCEL, "cancelled", 1, 0, 0),
        (lease(), Crashed(), Move.RETRY, "crashed", 0, 1, 0),
        (lease(failures=2), Crashed(), Move.RETRY, "crashed", 0, 1, 0),  # a budget of its own
        (lease(crashes=1), Crashed(), Move.FAIL, "crashed", 0, 1, 0),
        (lease(is_cancelling=True), Crashed(), Move.CANCEL, "crashed", 0, 1, 0),
    ],
)
def test_table(
    held: Lease, outcome: Outcome, move: Move, word: str, failures: int, crashes: int, delay_ms: int
) -> None:
    decision = decide(held, outcome)
    assert (decision.move, decision.word) == (move, word)
    assert (decision.failures, decision.crashes, decision.delay_ms) == (failures, crashes, delay_ms)


def test_errors_say_who_and_what() -> None:
    details = {"status": 503}
    failed = decide(lease(), Failed("no", code="busy", source="http", retryable=True, details=details))
    assert failed.error == {
        "code": "busy",
        "message": "no",
        "source": "http",
        "retryable": True,
        "details": details,
    }
    assert decide(lease(), Failed("no")).error == {
        "code": "external_failure",
        "message": "no",
        "source": "executor",
    }
    crashed = decide(lease(), Crashed()).error
    assert crashed is not None and crashed["code"] == "worker_lost" and crashed["retryable"] is True
    assert decide(lease(), Succeeded()).error is None
    assert decide(lease(), Released()).error is None


def test_the_wait_grows_with_the_failures() -> None:
    policy = replace(POLICY, max_attempts=9, backoff=Backoff.EXPONENTIAL, factor=3.0)
    waits = [decide(lease(retry=policy, failures=n), Failed("no")).delay_ms for n in range(4)]
    assert waits == [500, 1_500, 4_500, 13_500]


def test_every_attempt_has_the_same_idempotency_key() -> None:
    assert {lease(attempt=n, token=str(n)).idempotency_key for n in range(5)} == {"task-1"}
