"""One claim, however many tasks are ready and however many have been done before."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks import fleet
from benchmarks.harness import Case, Contestant, Figures, percentile
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.servers import Place, connect
from engine.operations import tasks, workers
from engine.store.claims import ClaimRequest
from engine.store.database import Database
from tests.plans.plans import plans_of

CASE = "postgres, a claim of one task"
SHALLOW, DEEP, OLD = "1,000 ready", "1,000,000 ready", "1,000 ready, 10,000,000 done"
_CHUNK = 500_000
_READY = 1_000
_LOAD = (
    """INSERT INTO run (id, state, actor, created_at, event_count, total, succeeded, started_at, finished_at)
    SELECT %(run)s, %(run_state)s, 'local', now(), 1, %(count)s, CASE WHEN %(done)s THEN %(count)s ELSE 0 END,
      CASE WHEN %(done)s THEN now() END, CASE WHEN %(done)s THEN now() END""",
    """INSERT INTO task (id, run_id, name, kind, params, created_at)
    SELECT id, %(run)s, 't' || id, 'noop', '{}', now() FROM generate_series(%(first)s, %(last)s) AS id""",
    """INSERT INTO task_state (task_id, run_id, state, queue, kind, rank, available_at, attempt, changed_at)
    SELECT id, %(run)s, %(state)s, 'default', 'noop', 0, now(), %(done)s::integer, now()
    FROM generate_series(%(first)s, %(last)s) AS id""",
)
_HISTORY = (
    """INSERT INTO attempt (task_id, number, session_id, started_at, finished_at, outcome, result)
    SELECT id, 1, 1, now(), now(), 'succeeded', '{"ok":true,"message":""}'
    FROM generate_series(%(first)s, %(last)s) AS id""",
    """INSERT INTO event (run_id, number, kind, task_id, attempt, at, actor)
    SELECT %(run)s, id - %(first)s + 1, 'succeeded', id, 1, now(), 'worker:1'
    FROM generate_series(%(first)s, %(last)s) AS id""",
)


def cases(bench: Bench) -> Iterator[Case]:
    ready = {
        SHALLOW: _READY,
        "100,000 ready": bench.size(100_000, 10_000),
        DEEP: bench.size(1_000_000, 20_000),
    }
    done = bench.size(10_000_000, 50_000)
    times = bench.size(150, 50)
    for place in bench.places:
        if place.name == "postgres":
            opened = {name: _loaded(bench, place, ready=count) for name, count in ready.items()}
            opened[OLD] = _loaded(bench, place, ready=_READY, done=done)
            yield Case(
                CASE,
                [
                    Contestant(name, partial(_claims, database, session, times))
                    for name, (database, session) in opened.items()
                ],
            )


def _loaded(bench: Bench, place: Place, *, ready: int, done: int = 0) -> tuple[Database, int]:
    """A database with that many tasks, and a worker session in it; closed after the scenario."""
    url = bench.stack.enter_context(place.fresh())
    with connect(url) as connection:
        run, first = 1_000_000_000, 1_000_000_000_000  # ids that nobody draws
        for is_done, total in ((True, done), (False, ready)):
            for chunk in range(0, total, _CHUNK):
                count = min(_CHUNK, total - chunk)
                binds = {
                    "run": run,
                    "run_state": "succeeded" if is_done else "pending",
                    "state": "succeeded" if is_done else "available",
                    "count": count,
                    "done": is_done,
                    "first": first,
                    "last": first + count - 1,
                }
                for statement in (*_LOAD, *(_HISTORY if is_done else ())):
                    connection.execute(statement, binds)
                run, first = run + 1, first + count
        connection.execute("VACUUM ANALYZE")
    database = bench.stack.enter_context(fleet.opened(url))
    registration = workers.Registration(
        name="benchmark", host="here", pid=0, version="0", queues=[], concurrency=1
    )
    return database, asyncio.run(workers.register(database, registration))


def _claims(database: Database, session: int, times: int) -> Figures:
    """One task a claim, from the start of the queue, each in a transaction of its own."""
    waits = asyncio.run(_waits(database, session, times))
    plans = plans_of(database, lambda: asyncio.run(_waits(database, session, 1)))
    return {
        "p50 ms": percentile(waits, 0.5),
        "p99 ms": percentile(waits, 0.99),
        "buffer hits": sum(_buffers(json.loads(plan.text)) for plan in plans),
    }


async def _waits(database: Database, session: int, times: int) -> list[float]:
    """Milliseconds of each claim."""
    request = ClaimRequest(session, "f" * 32, "default", ("noop",), 1)
    waits = []
    for _ in range(times):
        began = time.perf_counter()
        claimed = await tasks.claim(database, request, actor=f"worker:{session}")
        waits.append((time.perf_counter() - began) * 1000)
        assert len(claimed) == 1
    return waits


def _buffers(document: Any) -> int:
    root = document[0]["Plan"]
    return int(root["Shared Hit Blocks"] + root["Shared Read Blocks"])


SCENARIO = Scenario("depth", "one claim with 1,000 to 1,000,000 tasks ready, and with 10,000,000 done", cases)
