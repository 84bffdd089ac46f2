"""What a worker was doing when it was killed with −9, until the bodies run again in another worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import psutil

from benchmarks import fleet, kinds
from benchmarks.fleet import wait_until
from benchmarks.harness import Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.scenarios.latency import stamping
from benchmarks.servers import Place
from engine.worker.options import WorkerOptions

WORKER, MACHINE = "worker killed", "worker and guardian killed"
_TASKS = 10
_OPTIONS = WorkerOptions(concurrency=_TASKS, grace_seconds=0.1)  # leases and beats as they ship


def cases(bench: Bench) -> Iterator[Case]:
    for place in bench.places:
        contestants = [Contestant(WORKER, partial(killed, place))]
        if not bench.quick:  # waits for the lease to run out
            contestants.append(Contestant(MACHINE, partial(killed, place, with_guardian=True)))
        yield Case(place.name, contestants)


def killed(place: Place, *, with_guardian: bool = False) -> Figures:
    with ExitStack() as stack:
        url = stack.enter_context(place.fresh())
        environment = stack.enter_context(stamping())
        fleet.submit(url, fleet.tasks_graph(_TASKS, "stamp", {"seconds": 600}))
        [victim] = stack.enter_context(fleet.workers(url, 1, _OPTIONS, environment))
        wait_until(lambda: len(kinds.read(environment)) >= _TASKS, 60)
        [heir] = stack.enter_context(fleet.workers(url, 1, _OPTIONS, environment))
        wait_until(lambda: any(event["msg"] == "worker.started" for event in heir.events()), 60)
        process = psutil.Process(victim.pid)
        doomed = [process, *process.children(recursive=True)] if with_guardian else [process]
        for one in doomed:  # stopped first, so that none can see another go
            one.suspend()
        before = kinds.now()
        for one in doomed:
            one.kill()
        wait_until(lambda: len(kinds.read(environment)) >= 2 * _TASKS, 120)
        again = [(at - before) * 1000 for _, at in kinds.read(environment)[_TASKS:]]
    return {"first body again ms": min(again), "last body again ms": max(again)}


SCENARIO = Scenario("recovery", "from kill -9 of a worker until its tasks run again elsewhere", cases)
