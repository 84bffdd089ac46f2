"""Measures what a user would feel: tasks drained, submits accepted, time until an idle worker starts.

`python benchmarks/measure.py --db URL [--db URL …] [--json FILE]`; each URL needs our schema (`task-engine
db upgrade --db URL`) and should hold nothing else. Workers and servers are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa

from engine.executors.base import ExecutorSettings
from engine.model.graph import Graph, TaskSpec
from engine.operations import runs
from engine.store.database import Database
from engine.worker.options import WorkerOptions
from engine.worker.pool import PoolSpec

_WRK = """
wrk.method, wrk.path = "POST", "/tasks"
wrk.headers["Content-Type"] = "application/json"
local prefix = math.random(1, 1e9) .. tostring({}):gsub("%W", "")
local count = 0
function request()
  count = count + 1
  local body = '{"tasks":[{"id":"' .. prefix .. '-' .. count .. '","type":"noop","params":{}}]}'
  return wrk.format(nil, nil, nil, body)
end
"""


def drain(url: str, tasks: int) -> dict[str, Any]:
    """Tasks per second of one worker process that runs up to 200 at a time, from the first to the last."""
    database = Database(url)
    specs = tuple(TaskSpec(f"t{number}", "noop", {}) for number in range(tasks))
    run_id = asyncio.run(runs.submit(database, Graph(specs))).run_id
    with worker(url, WorkerOptions(concurrency=200)):
        while asyncio.run(runs.get(database, run_id)).finished_at is None:
            time.sleep(0.2)
    run = asyncio.run(runs.get(database, run_id))
    database.close()
    assert run.succeeded == tasks and run.started_at is not None and run.finished_at is not None
    return {"tasks/s": round(tasks / (run.finished_at - run.started_at).total_seconds())}


def pick_up(url: str, times: int) -> dict[str, Any]:
    """Milliseconds from the submit of a task until an idle worker of another process has claimed it."""
    database = Database(url)
    with worker(url, WorkerOptions(concurrency=10)):
        ids = []
        for number in range(times + 5):
            accepted = asyncio.run(runs.submit(database, Graph((TaskSpec("t", "noop", {}),))))
            while asyncio.run(runs.get(database, accepted.run_id)).finished_at is None:
                time.sleep(0.005)
            if number >= 5:  # the first ones find a worker that is still starting
                ids.append(accepted.run_id)
    waits = sorted(
        (run.started_at - run.created_at).total_seconds() * 1000
        for run in (asyncio.run(runs.get(database, run_id)) for run_id in ids)
        if run.started_at is not None
    )
    database.close()
    return {
        "pick-up p50 ms": round(waits[len(waits) // 2], 1),
        "pick-up p99 ms": round(waits[int(len(waits) * 0.99)], 1),
    }


def submits(url: str, seconds: int, connections: int) -> dict[str, Any]:
    """Durable `POST /tasks` a second, one task each, without workers, by wrk."""
    if shutil.which("wrk") is None:
        return {"submits/s": "wrk is not installed"}
    with server(url) as address, tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_WRK)
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), address]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", told)
    slow = re.search(r"^\s+99%\s+(\S+)", told, re.MULTILINE)
    assert found is not None and slow is not None, told
    return {
        "submits/s": round(float(found[1])),
        "submit p99": slow[1],
        "refused": int(refused[1]) if refused else 0,
    }


@contextmanager
def worker(url: str, options: WorkerOptions) -> Iterator[None]:
    spec = PoolSpec(url, 1, options, ExecutorSettings(file_root=Path(tempfile.gettempdir())))
    process = subprocess.Popen(
        [sys.executable, "-m", "engine.worker.process"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(spec.to_line())
    process.stdin.flush()
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)
        process.stdin.close()


@contextmanager
def server(url: str) -> Iterator[str]:
    port = os.environ.get("MEASURE_PORT", "18080")
    address = f"http://127.0.0.1:{port}"
    program = str(Path(sys.executable).with_name("task-engine"))
    command = [program, "server", "start", "--db", url, "--port", port, "--workers", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                httpx.get(f"{address}/health", timeout=1)
                break
            except httpx.HTTPError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--db", action="append", required=True, metavar="URL")
    options.add_argument("--tasks", type=int, default=20_000, help="to drain")
    options.add_argument("--times", type=int, default=300, help="submits to an idle worker")
    options.add_argument("--seconds", type=int, default=10, help="of REST load")
    options.add_argument("--connections", type=int, default=32, help="of REST load")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for url in chosen.db:
        name = sa.make_url(url).get_backend_name()
        results[name] = {
            **pick_up(url, chosen.times),
            **drain(url, chosen.tasks),
            **submits(url, chosen.seconds, chosen.connections),
        }
    for name, figures in results.items():
        print(name)
        for what, figure in figures.items():
            print(f"  {what:<16} {figure}")
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
