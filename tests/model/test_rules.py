"""`settle` as a truth table: each rule against every mix of ends of up to three upstreams."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest

from engine.model.graph import Rule
from engine.model.rules import settle
from engine.model.states import Move

ENDS = ("open", "succeeded", "failed", "missed")
MIXES = [mix for size in (1, 2, 3) for mix in combinations_with_replacement(ENDS, size)]


def expected(rule: Rule, mix: tuple[str, ...]) -> Move | None:
    """The sentences beside `Rule`, one by one."""
    still_open, has_failed, has_missed = "open" in mix, "failed" in mix, "missed" in mix
    match rule:
        case Rule.ALL_SUCCESS:
            if has_failed or has_missed:
                return Move.SKIP
        case Rule.ONE_FAILED:
            if has_failed:
                return Move.UNBLOCK
            return None if still_open else Move.SKIP
        case Rule.NONE_FAILED:
            if has_failed:
                return Move.SKIP
    return None if still_open else Move.UNBLOCK


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("mix", MIXES, ids="+".join)
def test_truth_table(rule: Rule, mix: tuple[str, ...]) -> None:
    verdict = settle(
        rule, waiting_on=mix.count("open"), failed_on=mix.count("failed"), skipped_on=mix.count("missed")
    )
    assert verdict is expected(rule, mix)


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("mix", MIXES, ids="+".join)
def test_a_verdict_is_final(rule: Rule, mix: tuple[str, ...]) -> None:
    """Once a task is decided, no end of what was still open would have decided otherwise."""
    now = expected(rule, mix)
    if now is None or "open" not in mix:
        return
    for end in ("succeeded", "failed", "missed"):
        later = list(mix)
        later[later.index("open")] = end
        counts = {"waiting_on": later.count("open"), "failed_on": later.count("failed")}
        assert settle(rule, skipped_on=later.count("missed"), **counts) is now
