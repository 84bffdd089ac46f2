"""Resident memory of a server and a worker while a million tasks are submitted, and then worked off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial

import httpx

from benchmarks import fleet
from benchmarks.harness import ENGINE, Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.servers import Place
from engine.operations import totals
from engine.store.database import Database

SERVER, WORKER = "server MiB at {:,} submitted", "worker MiB at {:,} done"
POINTS = 10
FULL = 1_000_000
_BATCH = 1_000


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(FULL, 20_000)
    for place in bench.places:
        yield Case(place.name, [Contestant(ENGINE, partial(measure, place, count))])


def measure(place: Place, count: int) -> Figures:
    """Submitted over REST in graphs of a thousand, then drained by one worker process."""
    step = count // POINTS
    figures: dict[str, float] = {}
    with place.fresh() as url:
        with fleet.server(url, "--shared") as (address, process), httpx.Client(timeout=60) as client:
            for submitted in range(_BATCH, count + 1, _BATCH):
                client.post(f"{address}/tasks", content=_body(submitted)).raise_for_status()
                if submitted % step == 0:
                    figures[SERVER.format(submitted)] = fleet.rss_mib(process.pid)
        with fleet.workers(url) as [worker], fleet.opened(url) as database:
            for done in range(step, count + 1, step):
                fleet.wait_until(partial(_is_done, database, done), 3600, every=0.2)
                figures[WORKER.format(done)] = fleet.rss_mib(worker.pid)
    return figures


def _body(last: int) -> bytes:
    tasks = [{"id": f"t{number}", "type": "noop", "params": {}} for number in range(last - _BATCH, last)]
    return json.dumps({"tasks": tasks}).encode()


def _is_done(database: Database, tasks: int) -> bool:
    return asyncio.run(totals.read(database))["succeeded"] >= tasks


SCENARIO = Scenario("memory", "resident memory of server and worker over 1,000,000 tasks", cases, repeats=1)
