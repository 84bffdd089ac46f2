from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.model.retry import Backoff, RetryPolicy

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 1_000),
    max_crashes=st.integers(1, 100),
    backoff=st.sampled_from(Backoff),
    initial_ms=st.integers(0, 2**31),
    factor=st.floats(1, 1_000, allow_nan=False),
    max_ms=st.integers(0, 2**31),
    jitter=st.floats(0, 1),
)


def test_fixed_and_exponential_waits() -> None:
    fixed = RetryPolicy(backoff=Backoff.FIXED, initial_ms=250, jitter=0)
    assert [fixed.delay_ms(n) for n in (1, 2, 9)] == [250, 250, 250]
    doubling = RetryPolicy(initial_ms=100, max_ms=1_000, jitter=0)
    assert [doubling.delay_ms(n) for n in range(1, 7)] == [100, 200, 400, 800, 1_000, 1_000]


@given(policies, st.integers(1, 10**9))
def test_a_wait_stays_within_its_bounds(policy: RetryPolicy, failures: int) -> None:
    assert 0 <= policy.delay_ms(failures) <= policy.max_ms * (1 + policy.jitter) + 1


def test_jitter_spreads() -> None:
    policy = RetryPolicy(initial_ms=1_000, jitter=0.5)
    waits = {policy.delay_ms(1) for _ in range(200)}
    assert len(waits) > 50 and min(waits) >= 500 and max(waits) <= 1_500


@given(policies)
def test_stored_and_read_back(policy: RetryPolicy) -> None:
    assert RetryPolicy.from_json(policy.to_json()) == policy


def test_defaults_are_stored_as_nothing() -> None:
    assert RetryPolicy().to_json() == {}
    assert RetryPolicy.from_json(None) == RetryPolicy.from_json({}) == RetryPolicy()
