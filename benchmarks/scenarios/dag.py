"""A random layered graph: every task below the first layer waits for two of the layer above it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

from benchmarks.floors.postgres import SameRowsDag
from benchmarks.harness import ENGINE, FLOOR, Case, Contestant
from benchmarks.scenarios.base import Bench, Scenario, rate
from benchmarks.scenarios.drain import engine, file_floor, floor, load
from engine.model.graph import Dependency, Graph, TaskSpec

TWO = "engine, 2 worker processes"
_LAYERS = 100


def layered(count: int) -> Graph:
    """`count` tasks in a hundred layers; the same each time."""
    dice = random.Random(1)
    width = count // _LAYERS
    return Graph(
        tuple(
            TaskSpec(f"t{number}", "noop", depends_on=_two_above(dice, number // width, width))
            for number in range(width * _LAYERS)
        )
    )


def _two_above(dice: random.Random, layer: int, width: int) -> tuple[Dependency, ...]:
    if not layer:
        return ()
    above = range((layer - 1) * width, layer * width)
    return tuple(Dependency(f"t{number}") for number in dice.sample(above, 2))


def case(place: str) -> str:
    return f"{place}, 1 worker process"


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(100_000, 2_000)
    loaded = partial(load, layered(count))
    for place in bench.places:
        bare = (
            partial(file_floor, place, loaded, "TRUNCATE")
            if place.name == "sqlite"
            else partial(floor, place, loaded, 1, SameRowsDag)
        )
        yield Case(
            case(place.name),
            [
                Contestant(ENGINE, partial(engine, place, loaded)),
                Contestant(FLOOR, bare),
                Contestant(TWO, partial(engine, place, loaded, 2)),
                # They have no graphs: as many jobs that do not depend on each other.
                *(bench.against(place, "drain", rate, count=count, workers=1)),
            ],
        )


SCENARIO = Scenario("dag", "100,000 tasks in 100 layers with two edges each, tasks a second", cases)
