"""Which rows are asked for, checked before a database is asked: each takes a limit below 0 its own way."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from engine.errors import InvalidInput
from engine.model.similar import near

MOST = 1_000_000_000


def check_page(limit: int | None, offset: int = 0) -> None:
    """Raises `InvalidInput`."""
    for name, number in (("limit", limit), ("offset", offset)):
        if number is None:  # all of them
            continue
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MOST:
            raise InvalidInput(f"{name} is an integer from 0 to {MOST}, got {number!r:.80}")


def check_states(states: Iterable[str | None], known: type[StrEnum]) -> list[str]:
    """Those that are given. Raises `InvalidInput`."""
    if isinstance(states, str):
        raise InvalidInput(f"states are a list, got the text {states!r:.80}")
    given = [str(state) for state in states if state is not None]
    for state in given:
        if state not in list(known):
            raise InvalidInput(f"there is no state {state!r:.80}{near(state, known)}")
    return given
