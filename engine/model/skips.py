"""Skipped tasks, and which of them a failure kept from running. Pure.

What a task was skipped for stands in its event and never changes, so neither does what is said here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from engine.model.graph import Rule

# As `store.resolve` words it.
_BEFORE, _FAILED, _SKIPPED = "dependency ", " failed", " skipped"


class Skip(NamedTuple):
    """One event: the task was skipped, for `reason`."""

    number: int
    task_id: int
    name: str
    rule: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Skips:
    """Those of a run that stand below a failure: the numbers of their events, also from before a retry, and
    the ids of the tasks that are skipped now. Events up to `upto` were looked at."""

    upto: int = 0
    numbers: frozenset[int] = field(default_factory=frozenset)
    task_ids: frozenset[int] = field(default_factory=frozenset)


NO_SKIPS = Skips()


def below_failures(skips: Iterable[Skip]) -> list[Skip]:
    """Those that go back to a failed task. They are of one time between retries: each task is in it once."""
    by_name = {skip.name: skip for skip in skips}
    known: dict[str, bool] = {}
    for skip in by_name.values():
        path: list[str] = []
        at: Skip | None = skip
        while at is not None and at.name not in known:
            known[at.name] = False  # until the end of the path says more
            path.append(at.name)
            at = by_name.get(_cause(at))
        found = known[at.name] if at is not None else _has_failed(by_name[path[-1]])
        known.update(dict.fromkeys(path, found))
    return [skip for skip in by_name.values() if known[skip.name]]


def _cause(skip: Skip) -> str:
    """The skipped task that it was skipped for; no task's name if it was for something else."""
    if _waits_for_failure(skip) or not skip.reason.endswith(_SKIPPED):
        return ""
    return skip.reason[len(_BEFORE) : -len(_SKIPPED)]


def _has_failed(skip: Skip) -> bool:
    """Whether what it was skipped for is a failed task."""
    is_failure = skip.reason.startswith(_BEFORE) and skip.reason.endswith(_FAILED)
    return is_failure and not _waits_for_failure(skip)


def _waits_for_failure(skip: Skip) -> bool:
    return skip.rule == Rule.ONE_FAILED
