"""What the scripts of all peers share: their command line, worker processes and clocks.

Runs inside each peer's own environment, beside the peer: only the standard library and, for peers on
Postgres, psycopg. Every job carries a number; the first line of its body calls `began(number)`, which writes
the time into a file that all processes have mapped. So a worker never talks to the measuring process while it
is measured, and a job that was lost shows as a time that stays zero.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

POLL_SECONDS = 0.005
WARM_UPS = 20  # jobs before the latency of the others is measured
INTERVAL_SECONDS = 0.02  # between two submits to an idle system
START_SECONDS = 60.0  # a worker that needs longer to start has failed
CHURN_STEPS = 5
CHURN_WORKERS = 2


@dataclass(frozen=True, slots=True)
class Producer:
    """Submits jobs by their numbers; a job is durable when the call returns."""

    one: Callable[[int], Awaitable[object]]
    bulk: Callable[[Sequence[int]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Peer:
    """What a script gives to `main`: async functions of the URL, and what is particular to the peer.

    `work(url, ready)` runs a worker until its process is killed. It calls `ready`, which blocks until all
    workers are ready, once everything is imported and connected that can be before the first claim.
    """

    setup: Callable[[str], Awaitable[object]]
    producer: Callable[[str], AbstractAsyncContextManager[Producer]]
    work: Callable[[str, Callable[[], None]], Coroutine[Any, Any, object]]
    # Of peers on Postgres: a query for one boolean, true while a job waits or runs.
    unfinished: str | None = None
    # Works off the jobs of `numbers` in at most so many seconds; without it, two workers do.
    churn: Callable[[str, Sequence[int], float], Awaitable[object]] | None = None
    # Settings that its workers read when they start.
    environment: Mapping[str, str] = field(default_factory=dict)


_starts: memoryview[float]


def began(number: int) -> None:
    """The first line of every job's body."""
    _starts[number] = time.monotonic()


def main(peer: Peer, loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Do what the command line says and print one line of JSON. `loop` makes the peer's event loop."""
    options = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    options.add_argument("verb", choices=[*_VERBS, "work"])
    options.add_argument("--url", required=True)
    options.add_argument("--count", type=int, default=1000, help="of jobs")
    options.add_argument("--workers", type=int, default=1, help="worker processes of a drain")
    options.add_argument("--cut", type=float, default=300.0, metavar="SECONDS", help="end of a longer drain")
    options.add_argument("--starts", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    with asyncio.Runner(loop_factory=loop) as runner:
        if chosen.verb == "work":
            _map(chosen.starts)
            runner.run(peer.work(chosen.url, _ready))
        else:
            told = runner.run(_VERBS[chosen.verb](peer, chosen))
            print(json.dumps(told), flush=True)


def _map(path: str) -> None:
    global _starts
    with open(path, "r+b") as file:
        _starts = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")


def _ready() -> None:
    """Tell the measuring process, and wait until it lets all workers go at once."""
    os.write(1, b"ready\n")
    sys.stdin.readline()
    os.dup2(2, 1)  # nobody reads our standard output from here on


# --- verbs


async def _setup(peer: Peer, chosen: argparse.Namespace) -> dict[str, Any]:
    await peer.setup(chosen.url)
    return {}


async def _submit(peer: Peer, chosen: argparse.Namespace) -> dict[str, Any]:
    async with peer.producer(chosen.url) as producer:
        since = time.monotonic()
        await producer.bulk(range(chosen.count))
        return {"seconds": time.monotonic() - since, "count": chosen.count}


async def _submit_single(peer: Peer, chosen: argparse.Namespace) -> dict[str, Any]:
    async with peer.producer(chosen.url) as producer:
        since = time.monotonic()
        for number in range(chosen.count):
            await producer.one(number)
        return {"seconds": time.monotonic() - since, "count": chosen.count}


async def _drain(peer: Peer, chosen: argparse.Namespace) -> dict[str, Any]:
    with _shared_starts(chosen.count) as path:
        return await _preload_and_drain(
            peer, chosen.url, path, range(chosen.count), chosen.workers, chosen.cut
        )


async def _latency(peer: Peer, chosen: argparse.Namespace) -> dict[str, Any]:
    calls, returns = [], []
    numbers = range(WARM_UPS, WARM_UPS + chosen.count)
    with _shared_starts(numbers.stop) as path, _workers(peer, chosen.url, path, 1) as workers:
        async with peer.producer(chosen.url) as producer:
            workers.go()
            for number in range(WARM_UPS):
                await producer.one(number)
                await workers.have_begun(range(number, number + 1), START_SECONDS)
            due = time.monotonic()
            for number in numbers:
                due += INTERVAL_SECONDS
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                calls.append(time.monotonic())
                await producer.one(number)
                returns.append(time.monotonic())
            if not await workers.have_begun(numbers, START_SECONDS):
                raise TimeoutError("a job was submitted and never ran")
        starts = _starts[numbers.start : numbers.stop].tolist()
    return {
        "from_call_ms": [(start - call) * 1000 for start, call in zip(starts, calls, strict=True)],
        "from_return_ms": [(start - back) * 1000 for start, back in zip(starts, returns, strict=True)],
    }


async def _held_snapshot(peer: Peer, chosen: argparse.Namespace) -> dict[str, Any]:
    """Churn `count` jobs in steps, then drain one more step with one worker; without and under a snapshot."""
    if peer.unfinished is None:
        raise SystemExit("only databases have snapshots")
    return {
        "free": await _churn_and_drain(peer, chosen, hold=False),
        "held": await _churn_and_drain(peer, chosen, hold=True),
    }


_VERBS: dict[str, Callable[[Peer, argparse.Namespace], Coroutine[Any, Any, dict[str, Any]]]] = {
    "setup": _setup,
    "submit": _submit,
    "submit_single": _submit_single,
    "drain": _drain,
    "latency": _latency,
    "held_snapshot": _held_snapshot,
}


# --- draining


async def _preload_and_drain(
    peer: Peer, url: str, path: str, numbers: range, workers: int, cut: float
) -> dict[str, Any]:
    """Seconds from the first job's start until nothing is unfinished, and how many jobs ran.

    After `cut` seconds it ends all the same, and the count says how far it came.
    """
    async with peer.producer(url) as producer:
        await producer.bulk(numbers)
    with _workers(peer, url, path, workers) as running:
        since = running.go()
        done = await running.have_begun(numbers, cut)
        if done and peer.unfinished:
            # Not asked before: the queries would slow down what is measured.
            done = await _finished(url, peer.unfinished, since + cut)
        end = time.monotonic()
    # All jobs that ran, also those that a churn left over when it was cut.
    times = [start for start in _starts.tolist() if start >= since]
    if not times:
        raise TimeoutError(f"no job began within {cut} s")
    if done and not peer.unfinished:
        end = max(times)
    return {"seconds": end - min(times), "count": len(times)}


async def _finished(url: str, unfinished: str, until: float) -> bool:
    with closing(_connect(url)) as connection:
        while connection.execute(unfinished).fetchone()[0]:
            if time.monotonic() > until:
                return False
            await asyncio.sleep(POLL_SECONDS)
    return True


async def _churn_and_drain(peer: Peer, chosen: argparse.Namespace, hold: bool) -> dict[str, Any]:
    step = chosen.count // CHURN_STEPS
    churned: list[dict[str, Any]] = []
    with _sibling_database(chosen.url) as url, _shared_starts((CHURN_STEPS + 1) * step) as path:
        await peer.setup(url)
        with closing(_connect(url)) as holder:
            if hold:
                holder.execute("begin isolation level repeatable read")
                holder.execute("select pg_current_snapshot()")
            for first in range(0, CHURN_STEPS * step, step):
                numbers = range(first, first + step)
                if peer.churn is None:
                    told = await _preload_and_drain(peer, url, path, numbers, CHURN_WORKERS, chosen.cut)
                else:
                    told = await _preload_and_churn(peer, peer.churn, url, numbers, chosen.cut)
                churned.append(told)
                if told["count"] < step:  # cut: what is left of this step would run in the next
                    break
            numbers = range(CHURN_STEPS * step, (CHURN_STEPS + 1) * step)
            return {
                "churn": churned,
                "drain": await _preload_and_drain(peer, url, path, numbers, 1, chosen.cut),
            }


async def _preload_and_churn(
    peer: Peer,
    churn: Callable[[str, Sequence[int], float], Awaitable[object]],
    url: str,
    numbers: range,
    cut: float,
) -> dict[str, Any]:
    async with peer.producer(url) as producer:
        await producer.bulk(numbers)
    since = time.monotonic()
    await churn(url, numbers, cut)
    return {
        "seconds": time.monotonic() - since,
        "count": sum(1 for start in _starts[numbers.start : numbers.stop] if start),
    }


# --- processes, files, databases


class _Workers:
    """Processes that wait to be let go."""

    def __init__(self, processes: list[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def go(self) -> float:
        """The time just before the first is let go."""
        since = time.monotonic()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        return since

    async def have_begun(self, numbers: range, within: float) -> bool:
        """Wait until every job of `numbers` has begun; False if that takes longer than so many seconds."""
        until = time.monotonic() + within
        for number in numbers:
            while not _starts[number]:
                if any(process.poll() is not None for process in self._processes):
                    raise RuntimeError("a worker ended by itself")
                if time.monotonic() > until:
                    return False
                await asyncio.sleep(POLL_SECONDS)
        return True


@contextmanager
def _workers(peer: Peer, url: str, path: str, count: int) -> Iterator[_Workers]:
    """`count` workers that are ready, in processes of their own; killed at the end, whatever happens."""
    command = [sys.executable, sys.argv[0], "work", "--url", url, "--starts", path]
    environment = {**os.environ, **peer.environment}
    pipe = subprocess.PIPE
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment))
        for process in processes:
            assert process.stdout is not None
            if b"ready" not in process.stdout.readline():
                raise RuntimeError("a worker did not start")
        yield _Workers(processes)
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


@contextmanager
def _shared_starts(count: int) -> Iterator[str]:
    """A file with the start of each of `count` jobs, mapped into this process; zero until it begins."""
    with tempfile.TemporaryDirectory(prefix="peer-") as folder:
        path = Path(folder) / "starts"
        path.write_bytes(bytes(8 * count))
        _map(str(path))
        yield str(path)


@contextmanager
def _sibling_database(url: str) -> Iterator[str]:
    """A new database on the server of `url`, dropped at the end."""
    name = f"peer_{os.getpid()}"
    with closing(_connect(url)) as connection:
        connection.execute(f"create database {name}")
        try:
            yield urlsplit(url)._replace(path=f"/{name}").geturl()
        finally:
            connection.execute(f"drop database {name} with (force)")


def _connect(url: str) -> Any:
    import psycopg  # not there in the environments of peers that need no Postgres

    return psycopg.connect(url, autocommit=True)
