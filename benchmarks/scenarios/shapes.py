"""The two extreme shapes of a graph: a chain of single steps, and a fan out and in again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from statistics import median

from benchmarks import fleet, kinds
from benchmarks.floors import postgres, sqlite
from benchmarks.harness import ENGINE, FLOOR, Case, Contestant, Figures, percentile
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.scenarios.latency import working
from benchmarks.servers import Place
from engine import Engine
from engine.model.graph import Dependency, Graph, TaskSpec

UNRELATED = "as many unrelated tasks"


# --- chain


def chain(length: int) -> Graph:
    """Each task waits for the one before it."""
    return Graph(
        tuple(
            TaskSpec(f"t{number}", "stamp", depends_on=(Dependency(f"t{number - 1}"),) if number else ())
            for number in range(length)
        )
    )


def chain_cases(bench: Bench) -> Iterator[Case]:
    graph = chain(bench.size(1_000, 100))
    for place in bench.places:
        yield Case(
            place.name,
            [
                Contestant(ENGINE, partial(_engine_chain, place, graph)),
                Contestant(FLOOR, partial(_floor_chain, place, graph)),
            ],
        )


def _engine_chain(place: Place, graph: Graph) -> Figures:
    with place.fresh() as url:
        fleet.submit(url, graph)
        with working(url) as environment, fleet.opened(url) as database:
            fleet.wait_until_done(database)
            _, seconds = fleet.time_of_work(database)
            began = [at for _, at in kinds.read(environment)]
    hops = [(later - earlier) * 1000 for earlier, later in pairwise(began)]
    return {
        "ms/hop": seconds * 1000 / len(graph.tasks),
        "hop p50 ms": percentile(hops, 0.5),
        "hop p99 ms": percentile(hops, 0.99),
    }


def _floor_chain(place: Place, graph: Graph) -> Figures:
    return {"ms/hop": _floor_seconds(place, graph) * 1000 / len(graph.tasks)}


def _floor_seconds(place: Place, graph: Graph) -> float:
    with place.fresh() as url:
        fleet.submit(url, graph)
        if place.name == "sqlite":
            return sqlite.same_rows(url, journal="TRUNCATE")[1]
        return postgres.drain(url, postgres.SameRowsDag)[1]


# --- fan


def fan(width: int) -> Graph:
    """One task, `width` that wait for it, one that waits for all of those."""
    first = (Dependency("first"),)
    middle = [TaskSpec(f"m{number}", "stamp", depends_on=first) for number in range(width)]
    last = TaskSpec("last", "stamp", depends_on=tuple(Dependency(task.name) for task in middle))
    return Graph((TaskSpec("first", "stamp"), *middle, last))


def fan_case(place: str, width: int) -> str:
    return f"{place}, {width:,} out and in"


def fan_cases(bench: Bench) -> Iterator[Case]:
    for place in bench.places:
        for width, times in ((100, 2),) if bench.quick else ((1_000, 20), (10_000, 5)):
            graph, unrelated = fan(width), fleet.tasks_graph(width + 2, "stamp")
            yield Case(
                fan_case(place.name, width),
                [
                    Contestant(ENGINE, partial(_engine_fan, place, graph, times)),
                    Contestant(UNRELATED, partial(_engine_fan, place, unrelated, times)),
                    Contestant(FLOOR, partial(_floor_fan, place, graph)),
                ],
            )


def _engine_fan(place: Place, graph: Graph, times: int) -> Figures:
    """Several runs one after the other, by one idle worker: the median of their times."""
    with place.fresh() as url, working(url) as environment:
        seconds = asyncio.run(_run_in_turn(url, graph, times))
        joins = _joins(kinds.read(environment))
    figures = {"seconds": median(seconds[1:])}
    return {**figures, "join p95 ms": percentile(joins[1:], 0.95)} if joins else figures


async def _run_in_turn(url: str, graph: Graph, times: int) -> list[float]:
    seconds = []
    async with Engine(url, workers=0, shared=True) as engine:
        for _ in range(1 + times):  # the first finds a worker that is still starting
            run = await engine.wait((await engine.submit(graph)).run_id, 600)
            assert run.started_at is not None and run.finished_at is not None
            seconds.append((run.finished_at - run.started_at).total_seconds())
    return seconds


def _joins(stamps: list[tuple[str, float]]) -> list[float]:
    """Milliseconds from the start of the last upstream's body, which does nothing, to that of `last`."""
    return [(at - before) * 1000 for (_, before), (name, at) in pairwise(stamps) if name == "last"]


def _floor_fan(place: Place, graph: Graph) -> Figures:
    return {"seconds": _floor_seconds(place, graph)}


CHAIN = Scenario("chain", "1,000 tasks, each waiting for the one before it: milliseconds a hop", chain_cases)
FAN = Scenario("fan", "1,000 and 10,000 tasks between one that opens and one that joins them", fan_cases)
