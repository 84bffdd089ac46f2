"""No-op tasks that do not depend on each other, all submitted before the workers start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from benchmarks import fleet
from benchmarks.floors import postgres, sqlite
from benchmarks.floors.postgres import SameRows
from benchmarks.harness import ENGINE, FLOOR, MINIMAL, Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario, rate
from benchmarks.servers import Place
from engine.model.graph import Graph
from engine.operations import submits

ONE_PROCESS = "sqlite, one process"
Load = Callable[[str], None]  # puts the tasks into the database of a URL


def case(place: str, workers: int) -> str:
    return f"{place}, {workers} worker process{'es' if workers > 1 else ''}"


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(100_000, 2_000)
    for place in bench.places:
        yield from (_on_sqlite if place.name == "sqlite" else _on_postgres)(bench, place, count)


def _on_postgres(bench: Bench, place: Place, count: int) -> Iterator[Case]:
    together, apart = partial(load, fleet.tasks_graph(count)), partial(load_apart, count)
    for workers in (1, 2) if bench.quick else (1, 2, 4):
        yield Case(
            case("postgres", workers),
            [
                Contestant(ENGINE, partial(engine, place, together, workers)),
                Contestant(FLOOR, partial(floor, place, together, workers)),
                Contestant(MINIMAL, partial(minimal, place, count, workers)),
                *bench.against(place, "drain", rate, count=count, workers=workers),
            ],
        )
    yield Case(
        f"{case('postgres', 1)}, runs of one task",
        [
            Contestant(ENGINE, partial(engine, place, apart)),
            Contestant(FLOOR, partial(floor, place, apart)),
        ],
    )


def _on_sqlite(bench: Bench, place: Place, count: int) -> Iterator[Case]:
    together, half = partial(load, fleet.tasks_graph(count)), partial(load, fleet.tasks_graph(count // 2))
    yield Case(
        ONE_PROCESS,
        [
            Contestant(ENGINE, partial(embedded, place, together)),
            Contestant(FLOOR, partial(file_floor, place, together, "WAL")),
            Contestant(MINIMAL, partial(file_minimal, place, count)),
            *bench.against(place, "drain", rate, count=count, workers=1),
        ],
    )
    for workers in (1, 8) if bench.quick else (1, 2, 4, 8):
        yield Case(
            case("sqlite", workers),
            [
                Contestant(ENGINE, partial(engine, place, half, workers)),
                # Who shares a file goes through a rollback journal; one floor serves them all.
                Contestant(FLOOR, partial(file_floor, place, half, "TRUNCATE")),
            ],
        )


# --- the engine


def load(graph: Graph, url: str) -> None:
    """Submit everything in one run."""
    fleet.submit(url, graph)


def load_apart(count: int, url: str) -> None:
    """`count` tasks in as many runs."""
    graphs = [fleet.tasks_graph(1)] * min(count, 1_000)
    with fleet.opened(url) as database:
        for _ in range(count // len(graphs)):
            asyncio.run(submits.submit_many(database, graphs))


def engine(place: Place, loaded: Load, workers: int = 1) -> Figures:
    """Worker processes of a pool, from the first claim to the last finish."""
    with place.fresh() as url:
        loaded(url)
        with fleet.workers(url, workers) as processes:
            usage = fleet.Usage.begin(*[process.pid for process in processes])
            serving = fleet.Usage.begin(place.pid)
            with fleet.opened(url) as database:
                fleet.wait_until_done(database, processes)
                used, served = usage.seconds(), serving.seconds()
                done, seconds = fleet.time_of_work(database)
            warnings = [
                event for process in processes for event in process.events() if event["level"] == "WARNING"
            ]
        figures = {"tasks/s": done / seconds, "worker CPU µs/task": used / done * 1e6}
        if place.pid is not None:
            figures["server CPU µs/task"] = served / done * 1e6
        return {**figures, "warnings": len(warnings)}


def embedded(place: Place, loaded: Load) -> Figures:
    """A program that alone uses the file, with a worker inside."""
    with place.fresh() as url:
        loaded(url)
        answer = fleet.run_child("benchmarks.embedded", "drain", url)
        with fleet.opened(url) as database:
            done, seconds = fleet.time_of_work(database)
        return {"tasks/s": done / seconds, "worker CPU µs/task": answer["cpu"] / done * 1e6}


# --- the floors


def floor(place: Place, loaded: Load, connections: int = 1, form: type[SameRows] = SameRows) -> Figures:
    with place.fresh() as url:
        loaded(url)
        return _rate(*postgres.drain(url, form, connections))


def minimal(place: Place, count: int, connections: int) -> Figures:
    with place.empty() as url:
        postgres.load_minimal(url, count)
        return _rate(*postgres.drain(url, postgres.Minimal, connections))


def file_floor(place: Place, loaded: Load, journal: str) -> Figures:
    with place.fresh() as url:
        loaded(url)
        return _rate(*sqlite.same_rows(url, journal=journal))


def file_minimal(place: Place, count: int) -> Figures:
    with place.empty() as url:
        return _rate(*sqlite.minimal(url, count))


def _rate(moved: int, seconds: float) -> Figures:
    return {"tasks/s": moved / seconds}


SCENARIO = Scenario("drain", "no-op tasks a second by 1, 2, 4 (SQLite: 8) worker processes", cases)
