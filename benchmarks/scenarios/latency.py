"""How long a task waits: on an idle system, at 80 % load, and until a poller sees its success."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen

from benchmarks import fleet, kinds
from benchmarks.harness import ENGINE, Case, Contestant, Figures, percentiles
from benchmarks.latencies import Submits, figures
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.servers import Place
from engine import Engine

ONE_PROCESS = "sqlite, idle, one process"
_LOAD = 0.8


def idle(place: str) -> str:
    return f"{place}, idle, worker in another process"


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(300, 30)
    seconds = bench.size(10, 2)
    for place in bench.places:
        peers = bench.against(place, "latency", figures, count=count)
        yield Case(
            idle(place.name),
            [
                Contestant(ENGINE, partial(worker_process, place, count)),
                *(peers if place.name == "postgres" else []),
            ],
        )
        if place.name == "sqlite":
            yield Case(ONE_PROCESS, [Contestant(ENGINE, partial(one_process, place, count)), *peers])
        yield Case(
            f"{place.name}, at 80 % load", [Contestant(ENGINE, partial(loaded, place, count, seconds))]
        )
        yield Case(
            f"{place.name}, success seen by a poller",
            [Contestant(ENGINE, partial(seen_by_poller, place, count // 3))],
        )


def worker_process(place: Place, count: int) -> Figures:
    with place.fresh() as url, working(url) as environment:
        submits = asyncio.run(_submits(url, count))
        return figures(submits.waits(dict(kinds.read(environment))))


def one_process(place: Place, count: int) -> Figures:
    with place.fresh() as url, stamping() as environment:
        return figures(
            fleet.run_child("benchmarks.embedded", "latency", url, str(count), environment=environment)
        )


def loaded(place: Place, count: int, seconds: int) -> Figures:
    """Capacity is what a feeder and a worker process sustain together; then the feeder gives 80 % of it."""
    with place.fresh() as url, working(url) as environment:
        full = fleet.run_child("benchmarks.embedded", "feed", url, "0", str(seconds))
        rate = full["count"] / full["seconds"]
        with fleet.opened(url) as database:
            fleet.wait_until_done(database)
        command = fleet.child("benchmarks.embedded", "feed", url, f"{_LOAD * rate}", str(count * 0.03 + 1))
        with Popen(command, stdout=PIPE) as feeder:
            submits = asyncio.run(_submits(url, count))
            feeder.communicate()
        waits = submits.waits(dict(kinds.read(environment)))
    return {"load tasks/s": _LOAD * rate, **figures(waits)}


def seen_by_poller(place: Place, count: int) -> Figures:
    async def poll(url: str) -> Submits:
        submits = Submits()
        async with Engine(url, workers=0, shared=True) as engine:
            await submits.make_and_poll(engine, count)
        return submits

    with place.fresh() as url, working(url):
        return percentiles(asyncio.run(poll(url)).until_seen())


async def _submits(url: str, count: int) -> Submits:
    submits = Submits()
    async with Engine(url, workers=0, shared=True) as engine:
        await submits.make(engine, count)
    return submits


@contextmanager
def stamping() -> Iterator[dict[str, str]]:
    """The environment of processes that know the kind `stamp`."""
    with tempfile.TemporaryDirectory(prefix="task-engine-bench-") as folder:
        yield kinds.install(Path(folder))


@contextmanager
def working(url: str, workers: int = 1) -> Iterator[dict[str, str]]:
    """Worker processes that know the kind `stamp`; gives their environment."""
    with stamping() as environment, fleet.workers(url, workers, environment=environment):
        yield environment


SCENARIO = Scenario("latency", "from the submit of a task to the first line of its body", cases)
