"""What it costs a drain that clients follow the events of its run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from subprocess import PIPE, Popen

from benchmarks import fleet
from benchmarks.harness import ENGINE, Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario
from benchmarks.servers import Place

CASE = "{}, 1 worker process and a server"


def followed(clients: int) -> str:
    return f"engine, {clients} following"


def cases(bench: Bench) -> Iterator[Case]:
    count = bench.size(50_000, 2_000)
    for place in bench.places:
        names = {0: ENGINE, 1: followed(1), 10: followed(10)}
        yield Case(
            CASE.format(place.name),
            [Contestant(name, partial(drain, place, count, clients)) for clients, name in names.items()],
        )


def drain(place: Place, count: int, clients: int) -> Figures:
    """Each client reads every event of the run, by long polls one after the other."""
    with place.fresh() as url:
        [accepted] = fleet.submit(url, fleet.tasks_graph(count))
        with fleet.server(url, "--shared") as (address, _):
            command = fleet.child("benchmarks.followers", address, str(accepted.run_id), str(clients))
            with ExitStack() as stack:
                processes = stack.enter_context(fleet.workers(url))
                followers = stack.enter_context(Popen(command, stdout=PIPE))
                stack.callback(followers.kill)  # if the run never ends they would not either
                database = stack.enter_context(fleet.opened(url))
                fleet.wait_until_done(database, processes)
                done, seconds = fleet.time_of_work(database)
                told, _ = followers.communicate(timeout=120)
    assert int(told) == clients * (2 * count + 3), f"{told!r} events reached {clients} clients"
    return {"tasks/s": done / seconds}


SCENARIO = Scenario(
    "stream", "no-op tasks a second with 0, 1 and 10 clients that follow the run's events", cases
)
