"""When a blocked task runs or is skipped, given how many of its upstream tasks ended in which way."""

from __future__ import annotations

from typing import assert_never

from engine.model.graph import Rule
from engine.model.states import Move


def settle(rule: Rule, *, waiting_on: int, failed_on: int, skipped_on: int) -> Move | None:
    """The move that is due, or None while the task has to wait.

    `waiting_on` upstreams are not final yet; `failed_on` failed, or were skipped below one that did;
    `skipped_on` were skipped for another reason or cancelled, or succeeded on a branch that the edge's
    condition does not take.
    """
    match rule:
        case Rule.ALL_SUCCESS:
            if failed_on or skipped_on:
                return Move.SKIP
            return None if waiting_on else Move.UNBLOCK
        case Rule.ALL_DONE | Rule.ALWAYS:
            return None if waiting_on else Move.UNBLOCK
        case Rule.ONE_FAILED:
            if failed_on:
                return Move.UNBLOCK
            return None if waiting_on else Move.SKIP
        case Rule.NONE_FAILED:
            if failed_on:
                return Move.SKIP
            return None if waiting_on else Move.UNBLOCK
        case _:
            assert_never(rule)
