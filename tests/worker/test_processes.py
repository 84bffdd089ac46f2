"""Worker processes that are killed, starved, poisoned or left alone by their supervisor."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.model.graph import Graph, TaskSpec
from engine.model.retry import RetryPolicy
from engine.operations import submits, tasks
from engine.store.database import Database
from engine.worker.options import WorkerOptions
from engine.worker.pool import PoolSpec
from tests.chaos import ledger
from tests.chaos.oracle import Look, read_ledger
from tests.chaos.rig import SHORT, Pool, pool, wait_until
from tests.factories import do, write
from tests.worker.kinds import lives

LONG = WorkerOptions(concurrency=2)  # a lease of twenty seconds: who is faster did not wait for it


@pytest.fixture
def look(database_url: str) -> Look:
    return Look(database_url)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def submit(database: Database, *specs: TaskSpec) -> list[int]:
    return list(do(submits.submit(database, Graph(specs))).task_ids.values())


def outcomes(database: Database, task_id: int) -> list[str]:
    return [attempt.outcome for attempt in do(tasks.attempts(database, task_id))]


def result(database: Database, task_id: int) -> Any:
    task = do(tasks.get(database, task_id))
    return None if task.last is None else task.last.result


def holder(worked: Pool, look: Look) -> psutil.Process:
    [(_, pid)] = wait_until(look.holders, 20)
    return psutil.Process(pid)


def hurry(database: Database) -> None:
    """Without the pause in which tasks that crashed together are taken apart."""
    write(database, "UPDATE task_state SET available_at = changed_at WHERE available_at > changed_at")


@pytest.mark.slow
def test_task_that_kills_its_worker_fails_when_its_crash_budget_is_used(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    with pool(database_url, tmp_path, processes=1, options=LONG) as worked:
        [poison] = submit(database, TaskSpec("poison", "poison"))
        wait_until(lambda: hurry(database) or look.is_over(), 60)
        [other] = submit(database, TaskSpec("other", "ledger", {"ms": 1}))
        wait_until(look.is_over, 20)
        assert len(wait_until(lambda: worked.workers(), 10)) == 1  # replaced each time
    task = do(tasks.get(database, poison))
    assert (task.state, outcomes(database, poison)) == ("failed", ["crashed"] * 3)
    assert task.last is not None and task.last.error is not None
    assert task.last.error["code"] == "worker_lost"
    assert do(tasks.get(database, other)).state == "succeeded"


@contextmanager
def two_and_a_tree(
    database: Database, database_url: str, folder: Path, options: WorkerOptions
) -> Iterator[tuple[Pool, int, Path]]:
    """Two workers, one of which runs a task with processes of its own, named in the note. Its second attempt
    says whether those of the first survived."""
    note = folder / "note"
    with pool(database_url, folder, processes=2, options=options) as worked:
        [task_id] = submit(database, TaskSpec("tree", "tree", {"note": str(note)}))
        wait_until(note.exists, 20)
        yield worked, task_id, note


def test_processes_of_a_killed_worker_are_gone_before_its_tasks_are_repeated(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    with two_and_a_tree(database, database_url, tmp_path, LONG) as (worked, task_id, note):
        stray = psutil.Process(int(note.read_text()))
        dying = holder(worked, look)
        dying.kill()
        wait_until(look.is_over, 20)
        # The guardian said so; nobody had to wait for the lease to run out.
        assert look.one(f"SELECT end_reason FROM worker_session WHERE pid = {dying.pid}") == "worker died"
        assert not lives(stray.pid)
    assert result(database, task_id) == {"survives": False}
    assert outcomes(database, task_id) == ["crashed", "succeeded"]


@pytest.mark.slow
def test_processes_of_a_stopped_worker_are_ended_before_others_may_repeat_its_tasks(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    with two_and_a_tree(database, database_url, tmp_path, SHORT) as (worked, task_id, _):
        stopped = holder(worked, look)
        stopped.send_signal(signal.SIGSTOP)
        try:
            wait_until(look.is_over, 20)
        finally:
            goes_on = _continued(stopped)
        if goes_on:
            wait_until(lambda: worked.logged("worker.registered_again"), 20)
        else:  # stopped while it was writing, it held up all others: its guardian has ended it
            assert not database.dialect.locks_rows
    assert result(database, task_id) == {"survives": False}


def _continued(stopped: psutil.Process) -> bool:
    """Whether it is still there."""
    try:
        stopped.send_signal(signal.SIGCONT)
    except psutil.NoSuchProcess:
        return False
    return True


@pytest.mark.slow
def test_processes_of_a_worker_that_died_with_its_guardian_are_ended_by_others(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    with two_and_a_tree(database, database_url, tmp_path, SHORT) as (worked, task_id, _):
        dying = holder(worked, look)
        for process in (*dying.children(), dying):
            if process in worked.guardians() or process == dying:
                process.kill()
        wait_until(look.is_over, 20)
    assert result(database, task_id) == {"survives": False}
    assert outcomes(database, task_id) == ["crashed", "succeeded"]


@pytest.mark.slow
def test_a_worker_that_was_stopped_while_it_wrote_does_not_hold_up_the_others(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    with pool(database_url, tmp_path, processes=2, options=SHORT) as worked:
        wait_until(lambda: look.one("SELECT count(*) FROM worker_session") == 2, 20)
        [task_id] = submit(database, TaskSpec("t", "stopper", {"url": database_url}))
        wait_until(look.is_over, 40)
        for process in worked.workers():  # on a server it only lost its transaction
            process.send_signal(signal.SIGCONT)
        gave_way = worked.logged("worker.killed_to_give_way")
    assert bool(gave_way) is not database.dialect.locks_rows
    assert outcomes(database, task_id) == ["crashed", "succeeded"]


@pytest.mark.slow
def test_nothing_a_task_does_in_its_worker_starves_the_heartbeat(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    options = dataclasses.replace(SHORT, concurrency=1, lease_seconds=5.0, beat_seconds=0.5)
    with pool(database_url, tmp_path, processes=4, options=options) as worked:  # the fourth looks on
        wait_until(lambda: look.one("SELECT count(*) FROM worker_session") == 4, 20)
        specs = [
            TaskSpec(what, "blocker", {"what": what, "seconds": 7})
            for what in ("interpreter", "loop", "threads")
        ]
        ids = submit(database, *specs)
        wait_until(look.is_over, 50)
        assert not worked.logged("worker.expired") and not worked.logged("worker.fenced")
    assert [outcomes(database, task_id) for task_id in ids] == [["succeeded"]] * 3


def test_workers_whose_supervisor_is_killed_drain_and_end(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    with pool(database_url, tmp_path, processes=2, options=SHORT) as worked:
        [task_id] = submit(database, TaskSpec("t", "ledger", {"ms": 1000}))
        wait_until(lambda: read_ledger(worked.ledger), 20)  # a task claimed but not begun is given back
        worked.supervisor.kill()
        wait_until(lambda: not worked.workers() and not worked.guardians(), 20)
    assert outcomes(database, task_id) == ["succeeded"]
    assert look("SELECT DISTINCT end_reason FROM worker_session") == [("stopped",)]


@pytest.mark.slow
def test_second_signal_ends_a_worker_at_once_and_gives_its_tasks_back(
    database: Database, database_url: str, look: Look, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    retry = RetryPolicy(max_crashes=9)
    with pool(database_url, tmp_path, processes=1, options=LONG) as worked:
        [task_id] = submit(database, TaskSpec("tree", "tree", {"note": str(note)}, retry=retry))
        wait_until(note.exists, 20)
        stray = psutil.Process(int(note.read_text()))
        process = holder(worked, look)
        process.terminate()
        wait_until(lambda: worked.logged("worker.draining"), 10)
        process.terminate()
        wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 5)
        wait_until(look.is_over, 20)
        assert not lives(stray.pid)
    assert outcomes(database, task_id) == ["crashed", "succeeded"]


def test_worker_waits_for_a_database_that_is_not_there_yet(tmp_path: Path, empty_file: Path) -> None:
    url: Any = "postgresql://postgres@127.0.0.1:1/nothing"
    with pool(url, tmp_path, processes=1, options=SHORT) as worked:
        wait_until(lambda: worked.logged("worker.start_delayed"), 20)
        assert len(worked.workers()) == 1
    assert not worked.logged("worker.process_died")


def test_worker_process_says_in_one_line_which_executor_cannot_be_loaded(
    database_url: str, tmp_path: Path
) -> None:
    path = ledger.install(tmp_path / "packages")
    [points] = (tmp_path / "packages").glob("*/entry_points.txt")
    points.write_text("[engine.executors]\nbroken = no_such_module:X\n")
    ended = subprocess.run(
        [sys.executable, "-m", "engine.worker.process"],
        input=PoolSpec(database_url).to_line(),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
    )
    [line] = ended.stdout.splitlines()
    assert json.loads(line)["msg"] == "worker.refused" and "no_such_module" in json.loads(line)["reason"]
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.slow
def test_server_that_is_killed_and_restarted_costs_no_process(tmp_path: Path, server_url: Any) -> None:
    cluster, url = server_url
    look = Look(url)
    database = Database(url, wake_others=False)
    try:
        with pool(url, tmp_path, processes=2, options=LONG) as worked:
            specs = [TaskSpec(f"t{number}", "ledger", {"ms": 300}) for number in range(60)]
            asyncio.run(submits.submit(database, Graph(tuple(specs))))
            wait_until(lambda: len(look.holders()) == 2, 20)
            before = {process.pid for process in worked.workers()}
            done = look.one("SELECT sum(succeeded) FROM run")
            cluster.kill()
            cluster.start()
            wait_until(lambda: look.one("SELECT sum(succeeded) FROM run") > done + 4, 5)
            wait_until(look.is_over, 30)
            assert {process.pid for process in worked.workers()} == before
        assert look("SELECT DISTINCT outcome FROM attempt") == [("succeeded",)]
        assert look.one("SELECT count(*) FROM attempt") == 60
    finally:
        database.close()
