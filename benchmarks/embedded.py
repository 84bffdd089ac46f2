"""Programs that embed the engine, each a process of its own: `python -m benchmarks.embedded VERB URL …`.

Each prints one line of JSON. `stamp` tasks need the environment of `kinds.install`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from typing import Any

from benchmarks import fleet, kinds
from benchmarks.latencies import Submits
from engine import Engine
from engine.model.graph import Graph
from engine.operations import submits, totals
from engine.store.database import Database


async def drain(url: str) -> dict[str, float]:
    """Work until no run is open, with the collector told to look less often, as `docs/` advises."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    began = time.process_time()
    async with Engine(url, options=fleet.FAST) as engine:
        for state in ("pending", "running"):
            while await engine.list_runs(state=state, limit=1):
                await asyncio.sleep(0.05)
    return {"cpu": time.process_time() - began}


async def latency(url: str, count: str) -> dict[str, list[float]]:
    """Submit a task every 20 ms and work on it in the same process."""
    async with Engine(url) as engine:
        submits = Submits()
        await submits.make(engine, int(count))
    return submits.waits(dict(kinds.read(os.environ)))


async def submit_single(url: str, count: str) -> dict[str, float]:
    """One task at a time, each in a run and a commit of its own."""
    async with Engine(url, workers=0) as engine:
        began = time.monotonic()
        for _ in range(int(count)):
            await engine.submit(fleet.tasks_graph(1))
        return {"count": int(count), "seconds": time.monotonic() - began}


async def submit_bulk(url: str, count: str, graphs: str) -> dict[str, float]:
    """A thousand tasks a commit: `graphs` runs of as many tasks as that makes."""
    batch = [fleet.tasks_graph(1_000 // int(graphs))] * int(graphs)
    async with Engine(url, workers=0) as engine:
        began = time.monotonic()
        for _ in range(int(count) // 1_000):
            await engine.submit_many(batch)
        return {"count": int(count) // 1_000 * 1_000, "seconds": time.monotonic() - began}


async def feed(url: str, rate: str, seconds: str) -> dict[str, float]:
    """Submit `rate` no-op tasks a second, or as many as are worked off if `rate` is 0.

    Answers how many succeeded, and in how many seconds.
    """
    database = Database(url)
    before, began = await totals.read(database), time.monotonic()
    due = began
    while time.monotonic() < began + float(seconds):
        if float(rate):
            due += 0.05
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await submits.submit(database, fleet.tasks_graph(max(1, round(float(rate) * 0.05))))
        elif (await totals.read(database))["open"] < 4 * _BATCH:
            await submits.submit(database, _GRAPH)
        else:
            await asyncio.sleep(0.01)
    after = await totals.read(database)
    answer = {"count": after["succeeded"] - before["succeeded"], "seconds": time.monotonic() - began}
    await asyncio.to_thread(database.close)
    return answer


_BATCH = 500
_GRAPH: Graph = fleet.tasks_graph(_BATCH)
VERBS: dict[str, Any] = {verb.__name__: verb for verb in (drain, latency, submit_single, submit_bulk, feed)}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(VERBS[sys.argv[1]](*sys.argv[2:]))))
