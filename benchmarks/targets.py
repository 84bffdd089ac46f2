"""What is required of the engine, as data: figures of scenarios, and the bounds they have to keep.

Throughputs are compared as the median over the rounds of the ratio within a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.harness import ENGINE, FLOOR, MINIMAL, Result, show
from benchmarks.scenarios import (
    cost,
    dag,
    depth,
    drain,
    floors,
    held_snapshot,
    latency,
    memory,
    shapes,
    submit,
)

PGQUEUER, HUEY = "pgqueuer", "huey"


@dataclass(frozen=True, slots=True)
class Check:
    """One bound on `figure`: on its median, or with `against` on its ratio to that contestant's.

    `against` may be (contestant, figure). Bounds are least values, or with `is_limit` most values.
    """

    scenario: str
    case: str
    figure: str
    required: float
    stretch: float | None = None
    is_limit: bool = False
    contestant: str = ENGINE
    against: str | tuple[str, str] | None = None
    or_else: Check | None = None  # enough if this one is met instead

    def value(self, results: Mapping[str, Result]) -> float | None:
        """None if it was not measured."""
        result = results.get(self.scenario)
        if result is None:
            return None
        if self.against is None:
            spread = result.spread(self.case, self.contestant, self.figure)
            return None if spread is None else spread.median
        other, figure = (self.against, self.figure) if isinstance(self.against, str) else self.against
        return result.ratio(self.case, self.contestant, self.figure, other, figure)

    def is_met(self, results: Mapping[str, Result], bound: float | None = None) -> bool | None:
        """Whether the value keeps `bound` (the required one); None if nothing was measured."""
        value = self.value(results)
        bound = self.required if bound is None else bound
        met = None if value is None else value <= bound if self.is_limit else value >= bound
        if not met and self.or_else is not None:
            other = self.or_else.is_met(results)
            return other if other or met is None else met
        return met

    def is_stretch_met(self, results: Mapping[str, Result]) -> bool | None:
        return None if self.stretch is None else self.is_met(results, self.stretch)

    @property
    def wanted(self) -> str:
        sign = "≤" if self.is_limit else "≥"
        text = f"{sign} {show(self.required)}{self.unit}"
        return text if self.or_else is None else f"{text}, or {self.or_else.wanted}"

    def reached(self, results: Mapping[str, Result]) -> str:
        value = self.value(results)
        text = "not measured" if value is None else f"{show(value)}{self.unit}"
        return text if self.or_else is None else f"{text}; {self.or_else.reached(results)}"

    @property
    def unit(self) -> str:
        """Nothing, or what the value is a multiple of."""
        if self.against is None:
            return ""
        return f" × {self.against if isinstance(self.against, str) else self.against[1]}"


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: met when every check is."""

    name: str
    checks: tuple[Check, ...]


def _shares(
    scenario: str, case: str, figure: str = "tasks/s", **bounds: tuple[float, float | None]
) -> list[Check]:
    return [
        Check(scenario, case, figure, required, stretch, against=_CONTESTANTS[name])
        for name, (required, stretch) in bounds.items()
    ]


_CONTESTANTS = {"floor": FLOOR, "pgqueuer": PGQUEUER, "huey": HUEY}


def _most(scenario: str, case: str, figure: str, required: float, stretch: float | None = None) -> Check:
    return Check(scenario, case, figure, required, stretch, is_limit=True)


def _fan(width: int) -> list[Check]:
    case = shapes.fan_case("postgres", width)
    ratio = Check("fan", case, "seconds", 1.5, 1.2, is_limit=True, against=shapes.UNRELATED)
    return [ratio, _most("fan", case, "join p95 ms", 50)]


def _depth(name: str) -> list[Check]:
    limits = {"buffer hits": 1.2, "p50 ms": 1.5}
    return [
        Check("depth", depth.CASE, figure, most, is_limit=True, contestant=name, against=depth.SHALLOW)
        for figure, most in limits.items()
    ]


def _growth(place: str, name: str) -> Check:
    last, first = name.format(memory.FULL), name.format(memory.FULL // memory.POINTS)
    return Check("memory", place, last, 1.05, is_limit=True, against=(ENGINE, first))


_TWO = drain.case("postgres", 2)
ROWS = (
    Row(
        "drain, no-op, 1 worker process",
        tuple(_shares("drain", drain.case("postgres", 1), floor=(0.6, None), pgqueuer=(1.2, 2.0))),
    ),
    Row(
        "drain, 2 worker processes",
        (
            Check(
                "drain",
                _TWO,
                "tasks/s",
                1.3,
                1.8,
                against=PGQUEUER,
                or_else=Check("drain", _TWO, "tasks/s", 0.6, against=FLOOR),
            ),
        ),
    ),
    Row(
        "random layered DAG, 100,000 tasks, resolved in SQL",
        tuple(_shares("dag", dag.case("postgres"), floor=(0.6, 0.8), pgqueuer=(1.0, None))),
    ),
    Row("chain of 1,000, per hop", (_most("chain", "postgres", "ms/hop", 2.3, 1.2),)),
    Row("fan-out and fan-in of 1,000 and 10,000", (*_fan(1_000), *_fan(10_000))),
    Row(
        "idle pick-up, Postgres",
        (
            _most("latency", latency.idle("postgres"), "from call p50 ms", 4, 2),
            _most("latency", latency.idle("postgres"), "from return p50 ms", 2, 1),
            _most("latency", latency.idle("postgres"), "from call p99 ms", 12),
            _most("latency", latency.idle("postgres"), "from return p99 ms", 10),
        ),
    ),
    Row(
        "idle pick-up, SQLite, one process",
        (
            _most("latency", latency.ONE_PROCESS, "from return p50 ms", 2, 1),
            _most("latency", latency.ONE_PROCESS, "from return p99 ms", 10),
        ),
    ),
    Row(
        "REST `POST /tasks`, one task each, 8 connections",
        (
            Check("submit", submit.single("postgres", 8), "graphs/s", 1_000, 1_500),
            Check("submit", submit.single("postgres", 8), "graphs/s", 0.3, against=submit.STUB),
        ),
    ),
    Row(
        "REST, one graph of 5,000 tasks",
        (_most("submit", submit.graph("postgres", 5_000), "seconds", 0.6, 0.3),),
    ),
    Row("SDK bulk submit", tuple(_shares("submit", submit.sdk_bulk("postgres"), pgqueuer=(1.2, 2.0)))),
    Row("held snapshot", (Check("held_snapshot", held_snapshot.CASE, "kept", 0.9, 1.0),)),
    Row(
        "one claim with 1,000,000 ready, and with 10,000,000 done",
        (*_depth(depth.DEEP), *_depth(depth.OLD)),
    ),
    Row(
        "SQLite drain, one process; 8 processes on one file without an error",
        (
            *_shares("drain", drain.ONE_PROCESS, huey=(2.0, 3.0), floor=(0.4, None)),
            _most("drain", drain.case("sqlite", 8), "warnings", 0),
        ),
    ),
    Row(
        "memory over a million tasks, from 100,000 on",
        tuple(
            _growth(place, name)
            for place in ("postgres", "sqlite")
            for name in (memory.SERVER, memory.WORKER)
        ),
    ),
    Row(
        "statements, commits, WAL bytes per task at full drain",
        (
            _most("cost", cost.UNRELATED, "commits/task", 0.05),
            Check("cost", cost.UNRELATED, "WAL bytes/task", 1.3, 1.1, is_limit=True, against=FLOOR),
        ),
    ),
    Row(
        "the floor itself, reduced to the leanest rows",
        tuple(
            Check("floors", floors.CASE, "tasks/s", 0.9, contestant=MINIMAL, against=name)
            for name in floors.REFERENCES
        ),
    ),
)
