"""A drain after a hundred thousand tasks have come and gone while somebody's old snapshot was open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from benchmarks import fleet
from benchmarks.floors import postgres
from benchmarks.harness import ENGINE, FLOOR, Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.servers import Place, connect

CASE = "postgres"
_STEPS = 5
Work = Callable[[str, int, int], float]  # (URL, tasks, workers or connections) → tasks/s


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(100_000, 5_000)
    for place in bench.places:
        if place.name == "postgres":
            yield Case(
                CASE,
                [
                    Contestant(ENGINE, partial(_churn_and_drain, place, _by_engine, count)),
                    Contestant(FLOOR, partial(_churn_and_drain, place, _by_floor, count)),
                    *bench.against(place, "held_snapshot", _peer_figures, count=count),
                ],
            )


def _churn_and_drain(place: Place, work: Work, count: int) -> Figures:
    """Churned in steps by two workers, then one more step by one worker: without and under a snapshot."""
    speeds: dict[str, float] = {}
    slowest: dict[str, float] = {}
    for name, held in (("free", nullcontext), ("held", _snapshot)):
        with place.fresh() as url, held(url):
            slowest[name] = min(work(url, count // _STEPS, 2) for _ in range(_STEPS))
            speeds[name] = work(url, count // _STEPS, 1)
    return _figures(speeds, slowest)


def _figures(speeds: dict[str, float], slowest: dict[str, float]) -> Figures:
    return {
        "free tasks/s": speeds["free"],
        "held tasks/s": speeds["held"],
        "kept": speeds["held"] / speeds["free"],
        "slowest step, free": slowest["free"],
        "slowest step, held": slowest["held"],
    }


@contextmanager
def _snapshot(url: str) -> Iterator[None]:
    with connect(url) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT pg_current_snapshot()")
        yield
        connection.execute("ROLLBACK")


def _by_engine(url: str, count: int, workers: int) -> float:
    [accepted] = fleet.submit(url, fleet.tasks_graph(count))
    with fleet.workers(url, workers) as processes, fleet.opened(url) as database:
        fleet.wait_until_done(database, processes)
        done, seconds = fleet.time_of_work(database, accepted.run_id)
    return done / seconds


def _by_floor(url: str, count: int, connections: int) -> float:
    fleet.submit(url, fleet.tasks_graph(count))
    moved, seconds = postgres.drain(url, postgres.SameRows, connections)
    return moved / seconds


def _peer_figures(answer: Any) -> Figures:
    def speed(told: Any) -> float:
        return float(told["count"] / told["seconds"])

    names = ("free", "held")
    return _figures(
        {name: speed(answer[name]["drain"]) for name in names},
        {name: min(map(speed, answer[name]["churn"])) for name in names},
    )


SCENARIO = Scenario(
    "held_snapshot", "speed kept after 100,000 tasks under an open REPEATABLE READ transaction", cases
)
