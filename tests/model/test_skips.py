"""Which skipped tasks a failure kept from running."""

from __future__ import annotations

import pytest

from engine.model.graph import Rule
from engine.model.skips import Skip, below_failures


def below(*given: tuple[str, str] | tuple[str, str, Rule]) -> set[str]:
    """Names of those below a failure; given are (name, reason) and maybe a rule."""
    skips = [
        Skip(number, number, name, str(rule[0]) if rule else None, reason)
        for number, (name, reason, *rule) in enumerate(given)
    ]
    return {skip.name for skip in below_failures(skips)}


@pytest.mark.parametrize(
    ("reason", "is_below"),
    [
        ("dependency a failed", True),
        ("dependency a cancelled", False),
        ("dependency a took another branch", False),
        ("no dependency failed", False),
        ("dependency gone skipped", False),
        ("", False),
    ],
)
def test_the_reason_says_what_it_was(reason: str, is_below: bool) -> None:
    assert below(("b", reason)) == ({"b"} if is_below else set())


def test_what_is_below_goes_back_to_the_first() -> None:
    chain = [(f"t{i}", f"dependency t{i - 1} skipped") for i in range(1, 5)]
    assert below(("t0", "dependency a failed"), *chain) == {f"t{i}" for i in range(5)}
    assert below(*chain[::-1], ("t0", "dependency a failed")) == {f"t{i}" for i in range(5)}
    assert below(("t0", "dependency a took another branch"), *chain) == set()


def test_a_task_that_waits_for_a_failure_was_not_kept_from_running_by_one() -> None:
    found = below(
        ("b", "dependency a failed"),
        ("watch", "dependency b skipped", Rule.ONE_FAILED),
        ("after", "dependency watch skipped"),
        ("other", "dependency b skipped", Rule.NONE_FAILED),
    )
    assert found == {"b", "other"}


def test_names_may_look_like_reasons() -> None:
    found = below(
        ("x failed", "dependency y took another branch"),
        ("below", "dependency x failed skipped"),
        ("x skipped", "dependency y failed"),
        ("under", "dependency x skipped skipped"),
    )
    assert found == {"x skipped", "under"}


def test_reasons_that_go_round_come_to_an_end() -> None:
    assert below(("a", "dependency b skipped"), ("b", "dependency a skipped")) == set()
