"""Contestants measured in turn, and what follows from their figures: medians, ratios, files."""

from __future__ import annotations

import json
import math
import statistics
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

ENGINE = "engine"
FLOOR = "same-rows floor"
MINIMAL = "minimal floor"

Figures = Mapping[str, float]  # a figure's name ends with its unit: "tasks/s", "p50 ms"


@dataclass(frozen=True, slots=True)
class Contestant:
    """`measure` does everything once, on rows of its own, and says what it saw."""

    name: str
    measure: Callable[[], Figures]


@dataclass(frozen=True, slots=True)
class Case:
    """Contestants that are compared with each other."""

    name: str
    contestants: Sequence[Contestant]


@dataclass(frozen=True, slots=True)
class Spread:
    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        return cls(min(values), statistics.median(values), max(values))


Rounds = list[dict[str, float]]  # the figures of each round; empty if that measurement failed


@dataclass(slots=True)
class Result:
    """All figures of one scenario: case → contestant → rounds."""

    scenario: str
    about: dict[str, Any] = field(default_factory=dict)  # machine, versions, command, time
    figures: dict[str, dict[str, Rounds]] = field(default_factory=dict)

    def rounds(self, case: str, contestant: str) -> Rounds:
        return self.figures.get(case, {}).get(contestant, [])

    def names(self, case: str, contestant: str) -> list[str]:
        """The figures of a contestant, in the order in which it gave them."""
        return list(dict.fromkeys(name for figures in self.rounds(case, contestant) for name in figures))

    def spread(self, case: str, contestant: str, figure: str) -> Spread | None:
        values = [figures[figure] for figures in self.rounds(case, contestant) if figure in figures]
        return Spread.of(values) if values else None

    def ratio(
        self, case: str, contestant: str, figure: str, other: str, other_figure: str | None = None
    ) -> float | None:
        """The median, over the rounds, of one figure divided by another of the same round."""
        ratios = [
            ours[figure] / theirs[other_figure or figure]
            for ours, theirs in zip(self.rounds(case, contestant), self.rounds(case, other), strict=False)
            if figure in ours and theirs.get(other_figure or figure)
        ]
        return statistics.median(ratios) if ratios else None

    @property
    def failed(self) -> list[str]:
        return [
            f"{case}, {contestant}"
            for case, contestants in self.figures.items()
            for contestant, rounds in contestants.items()
            if not all(rounds)
        ]

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text()))


def measure(
    result: Result, cases: Iterable[Case], repeats: int, after_each: Callable[[str], None] = print
) -> None:
    """Fill `result`, round by round: within a round every contestant once, so that a slow spell hits all.

    A measurement that fails leaves an empty round behind and says why; the others go on.
    """
    cases = list(cases)
    for number in range(repeats):
        for case in cases:
            for contestant in case.contestants:
                rounds = result.figures.setdefault(case.name, {}).setdefault(contestant.name, [])
                rounds.append(_measured(contestant))
                told = ", ".join(f"{name} {show(value)}" for name, value in rounds[-1].items()) or "FAILED"
                after_each(f"{number + 1}/{repeats}  {case.name}, {contestant.name}: {told}")


def _measured(contestant: Contestant) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in contestant.measure().items()}
    except Exception:  # a peer or a server that breaks must not cost the figures of an hour
        traceback.print_exc()
        return {}


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` (0 to 1) of `values` do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def percentiles(values: Sequence[float], what: str = "") -> dict[str, float]:
    """p50, p95 and p99 of milliseconds; `what` is put in front of the names."""
    return {f"{what}p{int(share * 100)} ms": percentile(values, share) for share in (0.5, 0.95, 0.99)}


def show(value: float) -> str:
    """Three significant digits, or whole numbers from a hundred on."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
