"""A stream outlives the workers that read it: nothing is left out or goes back, and gaps are told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.executors.base import ExecutorSettings
from engine.model.realtime import Endpoint, Protocol, RealtimeMode, RealtimeTask, Reconnect
from engine.model.workflow_graph import graph_of
from engine.model.workflows import Mode, Workflow
from engine.operations import runs, submits
from engine.store.database import Database
from engine.worker.options import WorkerOptions
from engine.worker.pool import PoolSpec
from tests.chaos import ledger
from tests.chaos.feeds import Feeds, feeding
from tests.chaos.oracle import Look
from tests.chaos.rig import wait_until

ITEMS = 20_000
FED = 4_000
OPTIONS = WorkerOptions(
    concurrency=2, lease_seconds=2.0, beat_seconds=0.5, sweep_seconds=0.3, poll_seconds=0.3, grace_seconds=5
)


class Workers:
    """Worker processes with the functions of `tests.chaos.numbers`; one that dies is replaced at `mend`."""

    def __init__(self, url: str, folder: Path, count: int) -> None:
        settings = ExecutorSettings(file_root=folder, functions=("tests.chaos.numbers",))
        self._line = PoolSpec(url, 1, OPTIONS, settings).to_line()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        path = str(Path(__file__).parents[2])
        self._environment = {**kept, ledger.LEDGER: str(folder / "ledger"), "PYTHONPATH": path}
        self._log = (folder / "log").open("wb")
        self._processes = [self._start() for _ in range(count)]

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "engine.worker.process"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
            env=self._environment,
        )
        assert process.stdin is not None
        process.stdin.write(self._line)
        process.stdin.flush()
        return process

    def mend(self) -> None:
        for number, process in enumerate(self._processes):
            if process.poll() is not None:
                self._close(process)
                self._processes[number] = self._start()

    def close(self) -> None:
        """Let them end by themselves; after a while, kill what is left."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
            self._close(process)
        self._log.close()

    def _close(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()


def submit(url: str, *tasks: RealtimeTask) -> int:
    database = Database(url, wake_others=False)
    try:
        graph = graph_of(Workflow("chaos", mode=Mode.STREAMING, realtime_tasks=tasks))
        return asyncio.run(submits.submit(database, graph)).run_id
    finally:
        database.close()


def counting() -> RealtimeTask:
    return RealtimeTask(
        "feed",
        function="take",
        collector="numbers",
        params={"most": ITEMS},
        mode=RealtimeMode.CONTINUOUS,
        batch_size=100,
        flush_interval_ms=50,
    )


def fed(name: str, url: str, protocol: Protocol) -> RealtimeTask:
    return RealtimeTask(
        name,
        function="note",
        params={"feed": name},
        mode=RealtimeMode.CONTINUOUS,
        endpoint=Endpoint(url, protocol),
        reconnect=Reconnect(first_ms=50, max_ms=200),
        batch_size=50,
        flush_interval_ms=50,
    )


def cancel(url: str, run_id: int) -> None:
    database = Database(url, wake_others=False)
    try:
        asyncio.run(runs.cancel(database, run_id))
    finally:
        database.close()


def standing(look: Look) -> tuple[int, int, int]:
    """(processed, sequence, batches) of the one stream; zeros before it began."""
    found: list[Any] = look("SELECT processed, sequence, batches FROM stream")
    return tuple(found[0]) if found else (0, 0, 0)


def storm(url: str, folder: Path, *, kills: int) -> None:
    run_id = submit(url, counting())
    look = Look(url)
    workers = Workers(url, folder, 2)
    seen: list[tuple[int, int, int]] = []
    try:
        killed, deadline = 0, time.monotonic() + 270
        next_kill = 0  # at so many items
        while (now := standing(look))[0] < ITEMS:
            assert time.monotonic() < deadline, f"it does not end: {now} after {killed} kills"
            seen.append(now)
            if killed < kills and now[0] >= next_kill:
                for _, pid in look.holders():
                    psutil.Process(pid).kill()
                    killed += 1
                    next_kill = now[0] + ITEMS // (kills + 1)
            workers.mend()
            time.sleep(0.02)
        assert killed == kills
        assert standing(look)[:2] == (ITEMS, ITEMS)
        cancel(url, run_id)
        wait_until(look.is_over, what="the run is over")
    finally:
        workers.close()
    assert seen == sorted(seen), "an offset went back"
    lines = [list(map(int, line.split())) for line in (folder / "ledger").read_text().splitlines()]
    assert {number for _, *numbers in lines for number in numbers} == set(range(1, ITEMS + 1))
    by_batch = {batch: numbers for batch, *numbers in lines}
    assert sum(map(len, by_batch.values())) == ITEMS  # of a batch that was begun twice, the second one counts
    assert look.one("SELECT failed FROM stream") == 0
    assert look.one("SELECT crashes FROM task_state") == kills
    assert look.one("SELECT state FROM run") == "cancelled"


def feed_storm(url: str, folder: Path, *, kills: int) -> None:
    """Two feeds, that cut connections themselves as well, and workers that are killed."""
    look = Look(url)
    with feeding(seed=1) as feeds:
        tasks = fed("tcp", feeds.tcp, Protocol.TCP), fed("ws", feeds.ws, Protocol.WS)
        run_id = submit(url, *tasks)
        workers = Workers(url, folder, 2)
        try:
            killed = 0
            deadline = time.monotonic() + 200
            while (least := fewest(look)) < FED or killed < kills:
                assert time.monotonic() < deadline, f"it does not end: {least} after {killed} kills"
                if killed < kills and least >= killed * FED // kills:
                    for _, pid in look.holders()[:1]:
                        psutil.Process(pid).kill()
                        killed += 1
                workers.mend()
                time.sleep(0.05)
            feeds.be_quiet()
            wait_until(
                lambda: not look("SELECT 1 FROM stream WHERE sequence < received"), what="all is handled"
            )
            cancel(url, run_id)
            wait_until(look.is_over, what="the run is over")
        finally:
            workers.close()
    assert look("SELECT 1 FROM stream_item") == []
    assert look.one("SELECT sum(failed + dropped) FROM stream") == 0
    lines = [json.loads(line) for line in (folder / "ledger").read_text().splitlines()]
    for name, received, gaps in look(
        "SELECT task.name, received, gaps FROM stream JOIN task ON task.id = stream.task_id"
    ):
        check_feed(feeds, name, received, gaps, [line[1:] for line in lines if line[0] == name])


def fewest(look: Look) -> int:
    """Items that were handled of the feed that is behind."""
    found = [row[0] for row in look("SELECT processed FROM stream")]
    return min(found) if len(found) == 2 else 0


def check_feed(feeds: Feeds, name: str, received: int, gaps: int, batches: list[Any]) -> None:
    taken: dict[int, Any] = {}
    for first, items in batches:
        for number, item in enumerate(items, first):
            assert taken.setdefault(number, item) == item, f"number {number} of {name} has changed"
    assert taken.keys() == set(range(1, received + 1)), "what was stored was handled"
    by_connection: dict[int, list[int]] = {}
    for number in sorted(taken):
        connection, count = taken[number]
        by_connection.setdefault(connection, []).append(count)
    for connection, counts in by_connection.items():
        assert counts == list(range(1, len(counts) + 1)), f"a hole within connection {connection} of {name}"
    assert len(by_connection) - 1 <= gaps <= feeds.connections[name] - 1
    assert len(by_connection) > 2


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_stream_while_its_workers_are_killed(postgres_url: str, tmp_path: Path) -> None:
    storm(postgres_url, tmp_path, kills=6)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_stream_in_a_shared_file_while_its_workers_are_killed(sqlite_url: str, tmp_path: Path) -> None:
    storm(sqlite_url, tmp_path, kills=4)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_feeds_while_their_workers_are_killed(postgres_url: str, tmp_path: Path) -> None:
    feed_storm(postgres_url, tmp_path, kills=6)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_feeds_in_a_shared_file_while_their_workers_are_killed(sqlite_url: str, tmp_path: Path) -> None:
    feed_storm(sqlite_url, tmp_path, kills=4)
