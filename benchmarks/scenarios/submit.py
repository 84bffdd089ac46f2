"""Submits: over REST one task each and one large graph, through the SDK one by one and in bulk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import httpx

from benchmarks import fleet
from benchmarks.floors import submits as floors
from benchmarks.harness import ENGINE, FLOOR, Case, Contestant, Figures
from benchmarks.scenarios.base import Bench, Scenario, rate
from benchmarks.servers import Place

STUB = "database stubbed out"
RUNS_OF_ONE = "engine, runs of one task"
_LUA = """
wrk.method, wrk.path = "POST", "/tasks"
wrk.headers["Content-Type"] = "application/json"
local count = 0
function request()
  count = count + 1
  return wrk.format(nil, nil, nil, '{"tasks":[{"id":"%s-' .. count .. '","type":"noop","params":{}}]}')
end
"""
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def single(place: str, connections: int) -> str:
    return f"{place}, REST, one task each, {connections} connection{'s' if connections > 1 else ''}"


def graph(place: str, size: int) -> str:
    return f"{place}, REST, one graph of {size:,} tasks"


def sdk_single(place: str) -> str:
    return f"{place}, SDK, one at a time"


def sdk_bulk(place: str) -> str:
    return f"{place}, SDK, bulk by 1,000"


def cases(bench: Bench) -> Iterator[Case]:
    for place in bench.places:
        yield from _over_rest(bench, place)
        yield from _through_sdk(bench, place)


# --- REST


def _over_rest(bench: Bench, place: Place) -> Iterator[Case]:
    seconds = bench.size(10, 1)
    for connections in (1, 8, 64):
        rows = bench.size(5_000, 300) * (1 if connections == 1 else 2)
        yield Case(
            single(place.name, connections),
            [
                Contestant(ENGINE, partial(one_task_each, place, connections, seconds)),
                Contestant(STUB, partial(one_task_each, place, connections, seconds, stub=True)),
                Contestant(FLOOR, partial(_floor_single, place, rows, connections, named=True)),
            ],
        )
    for size in (10, 5_000) if bench.quick else (10, 5_000, 100_000):
        yield Case(
            graph(place.name, size),
            [
                Contestant(ENGINE, partial(one_graph, place, size)),
                Contestant(STUB, partial(one_graph, place, size, stub=True)),
                Contestant(FLOOR, partial(_floor_graph, place, size)),
            ],
        )


def one_task_each(place: Place, connections: int, seconds: int, *, stub: bool = False) -> Figures:
    """Driven by wrk, on a server without workers."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not installed; apt-get install wrk")
    with ExitStack() as stack:
        url = stack.enter_context(place.fresh())
        address, process = stack.enter_context(_server(place, url, stub))
        script = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "post.lua"
        script.write_text(_LUA % uuid.uuid4().hex)
        load = ["wrk", "-t1", f"-c{connections}", "--latency", "-s", str(script), address]
        subprocess.run([*load, "-d1s"], stdout=subprocess.DEVNULL, check=True)  # connections, plans, caches
        script.write_text(_LUA % uuid.uuid4().hex)
        serving = fleet.Usage.begin(process.pid)
        told = subprocess.run([*load, f"-d{seconds}s"], capture_output=True, text=True, check=True).stdout
        used = serving.seconds()
    requests = re.search(r"(\d+) requests in", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    per_second = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert requests and per_second, told
    assert refused is None, told
    return {
        "graphs/s": float(per_second[1]),
        "p50 ms": _wait(told, 50),
        "p99 ms": _wait(told, 99),
        "server CPU µs/graph": used / int(requests[1]) * 1e6,
    }


def _wait(told: str, share: int) -> float:
    found = re.search(rf"^\s+{share}%\s+([\d.]+)(us|ms|s|m)$", told, re.MULTILINE)
    assert found, told
    return float(found[1]) * _UNITS[found[2]]


def one_graph(place: Place, size: int, *, stub: bool = False) -> Figures:
    """From the first byte sent to the answer 202; of small graphs the median of some."""
    times = 50 if size < 100 else 1
    with place.fresh() as url, _server(place, url, stub) as (address, _), httpx.Client() as client:
        client.post(f"{address}/tasks", content=_body(10), timeout=60).raise_for_status()
        waits = []
        for _ in range(times):
            body = _body(size)
            began = time.monotonic()
            client.post(f"{address}/tasks", content=body, timeout=120).raise_for_status()
            waits.append(time.monotonic() - began)
    return {"seconds": median(waits)}


def _body(size: int) -> bytes:
    """Each task but the first depends on one before it."""
    prefix = uuid.uuid4().hex
    tasks = [
        {
            "id": f"{prefix}-{number}",
            "type": "noop",
            "params": {},
            "depends_on": [f"{prefix}-{number // 2}"] if number else [],
        }
        for number in range(size)
    ]
    return json.dumps({"tasks": tasks}).encode()


def _server(place: Place, url: str, stub: bool) -> fleet.Served:
    return fleet.server(url, program=("-m", "benchmarks.stub" if stub else "engine"))


# --- SDK


def _through_sdk(bench: Bench, place: Place) -> Iterator[Case]:
    count = bench.size(3_000, 200)
    yield Case(
        sdk_single(place.name),
        [
            Contestant(ENGINE, partial(_embedded, place, "submit_single", count)),
            Contestant(FLOOR, partial(_floor_single, place, count, 1)),
            *bench.against(place, "submit_single", rate, count=count),
        ],
    )
    count = bench.size(50_000, 2_000)
    yield Case(
        sdk_bulk(place.name),
        [
            Contestant(ENGINE, partial(_embedded, place, "submit_bulk", count, 1)),
            Contestant(RUNS_OF_ONE, partial(_embedded, place, "submit_bulk", count, 1_000)),
            Contestant(FLOOR, partial(_floor_bulk, place, count)),
            *bench.against(place, "submit", rate, count=count),
        ],
    )


def _embedded(place: Place, verb: str, *arguments: int) -> Figures:
    with place.fresh() as url:
        return rate(fleet.run_child("benchmarks.embedded", verb, url, *map(str, arguments)))


# --- floors


def _floor_single(place: Place, count: int, connections: int, *, named: bool = False) -> Figures:
    with place.fresh() as url:
        seconds = floors.single(url, count, connections, named=named)
    return {"graphs/s" if named else "tasks/s": count / seconds}


def _floor_graph(place: Place, size: int) -> Figures:
    times = 50 if size < 100 else 1
    with place.fresh() as url:
        return {"seconds": floors.bulk(url, times, size, edges=True, named=True) / times}


def _floor_bulk(place: Place, count: int) -> Figures:
    with place.fresh() as url:
        return {"tasks/s": count / floors.bulk(url, count // 1_000, 1_000)}


SCENARIO = Scenario("submit", "submits a second and seconds per submit, over REST and through the SDK", cases)
