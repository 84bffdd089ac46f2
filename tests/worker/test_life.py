"""Start, drain, stop; and what a worker does when something of its own breaks."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest

from engine.errors import StoreUnavailable
from engine.executors.base import TaskContext
from engine.model.outcomes import Outcome, Succeeded
from engine.operations import functions, runs, tasks, workers
from engine.store import claims as store
from engine.store import finishes
from engine.store.database import Database
from engine.worker import capture, service
from engine.worker.claimer import Claimer
from engine.worker.service import Worker
from tests.factories import rows, write
from tests.worker.bench import ended, outcomes, submit_one, until, working

pytestmark = pytest.mark.anyio


class Gate:
    """A body that waits until it is let through."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.starts = 0

    async def gate(self, context: TaskContext, params: Any) -> Outcome:
        self.starts += 1
        self.begun.set()
        await self.open.wait()
        return Succeeded()


# --- the end


async def test_drain_lets_running_tasks_finish_and_takes_no_others(database: Database) -> None:
    gate = Gate()
    async with working(database, gate.gate) as worker:
        first = await submit_one(database, "gate")
        await gate.begun.wait()
        drain = asyncio.create_task(worker.drain())
        second = await submit_one(database, "fine")
        gate.open.set()
        await drain
    assert await outcomes(database, first) == ["succeeded"]
    assert (await tasks.get(database, second)).state == "available"
    [session] = await workers.list_sessions(database)
    assert session.end_reason == "stopped"


async def test_what_outlasts_the_grace_is_given_back_without_using_an_attempt(database: Database) -> None:
    gate = Gate()
    async with working(database, gate.gate) as worker:
        task_id = await submit_one(database, "gate")
        await gate.begun.wait()
        await worker.drain(0.05)
    task = await tasks.get(database, task_id)
    assert (task.state, task.failures, task.crashes) == ("available", 0, 0)
    assert await outcomes(database, task_id) == ["released"]
    gate.open.set()
    async with working(database, gate.gate):
        assert (await ended(database, task_id)).state == "succeeded"


async def test_failure_made_by_the_interruption_is_not_the_tasks_own(database: Database) -> None:
    begun = asyncio.Event()

    async def wrapped(context: TaskContext, params: Any) -> Outcome:
        begun.set()
        try:
            await asyncio.sleep(60)
        except BaseException as error:
            raise RuntimeError("connection broken") from error
        return Succeeded()

    async with working(database, wrapped) as worker:
        task_id = await submit_one(database, "wrapped")
        await begun.wait()
        await worker.stop_now()
    assert await outcomes(database, task_id) == ["released"]


async def test_what_is_given_back_is_not_taken_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, asked, answer = Gate(), asyncio.Event(), asyncio.Event()
    claim = tasks.claim

    async def held_up(*args: Any, **more: Any) -> Any:
        asked.set()
        await answer.wait()
        return await claim(*args, **more)

    async with working(database, gate.gate) as worker:
        task_id = await submit_one(database, "gate")
        await gate.begun.wait()
        monkeypatch.setattr(tasks, "claim", held_up)
        worker._work.set()
        await asked.wait()
        stop = asyncio.create_task(worker.stop_now())
        with suppress(TimeoutError):  # the claim comes last, if anything lets the other go first
            released = "SELECT 1 FROM attempt WHERE outcome = 'released'"
            await asyncio.wait_for(until(lambda: rows(database, released)), 0.5)
        answer.set()
        await stop
    assert await outcomes(database, task_id) == ["released"]


async def test_second_stop_cuts_the_grace_of_the_first_short(database: Database) -> None:
    gate = Gate()
    async with working(database, gate.gate, capture_output=True) as worker:
        task_id = await submit_one(database, "gate")
        await gate.begun.wait()
        users = capture._users
        first = asyncio.create_task(worker.drain(60.0))
        await until(lambda: worker._is_draining)
        await asyncio.wait_for(worker.stop_now(), 10.0)
        await asyncio.wait_for(first, 1.0)
        await worker.drain()
        assert capture._users == users - 1
    assert await outcomes(database, task_id) == ["released"]


async def test_nothing_of_a_worker_is_left(database: Database) -> None:
    async with working(database):
        await ended(database, await submit_one(database, "fine"))
    threads, own = threading.active_count(), len(os.listdir("/dev/fd"))
    children = len(psutil.Process().children())
    for _ in range(6):
        async with working(database):
            await ended(database, await submit_one(database, "fine"))
    assert len(psutil.Process().children()) == children
    # The database may still add threads and connections up to its pool; a worker adds none.
    assert len(os.listdir("/dev/fd")) <= own + 5
    assert threading.active_count() <= threads + 5
    assert not [handle for handle in asyncio.all_tasks() if handle.get_name().startswith("engine-")]


# --- what breaks inside


async def test_loop_that_fails_goes_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    real, failed = Claimer.claim, []

    async def claim(self: Claimer) -> Any:
        if not failed:
            failed.append(self)
            raise RuntimeError("a defect")
        return await real(self)

    monkeypatch.setattr(Claimer, "claim", claim)
    async with working(database):
        assert (await ended(database, await submit_one(database, "fine"))).state == "succeeded"
    assert failed


# --- guardian and lease


async def test_guardian_that_dies_is_replaced(database: Database) -> None:
    async with working(database) as worker:
        first = worker._lifeline.guardian_pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: worker._lifeline.guardian_pid != first)
        beats = await beat(database, worker)

        async def beats_on() -> bool:
            return await beat(database, worker) > beats

        await until(beats_on)
        assert worker._lifeline.is_safe
        await ended(database, await submit_one(database, "fine"))
    assert len(await workers.list_sessions(database)) == 1


async def beat(database: Database, worker: Worker) -> int:
    [session] = [one for one in await workers.list_sessions(database) if one.id == worker.session_id]
    return session.beat


async def test_worker_whose_beats_do_not_arrive_stops_what_runs_and_claims_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, rounds = Gate(), []
    real = Worker._wait_for_work

    async def wait_for_work(self: Worker) -> None:
        rounds.append(gate.starts)
        await real(self)

    monkeypatch.setattr(Worker, "_wait_for_work", wait_for_work)
    async with working(database, gate.gate, lease_seconds=1.5) as worker:
        task_id = await submit_one(database, "gate")
        await gate.begun.wait()
        guardian = worker._lifeline.guardian_pid
        assert guardian is not None
        os.kill(guardian, signal.SIGSTOP)
        try:
            await until(lambda: worker.running == 0)
            assert not worker._lifeline.is_safe
            await until(lambda: rows(database, "SELECT 1 FROM task_state WHERE state = 'available'"))
            before = len(rounds)
            await until(lambda: len(rounds) >= before + 5)  # looks that could find it and must not
            assert (gate.starts, (await tasks.get(database, task_id)).state) == (1, "available")
        finally:
            os.kill(guardian, signal.SIGCONT)
        gate.open.set()
        assert (await ended(database, task_id)).state == "succeeded"
    assert await outcomes(database, task_id) == ["released", "succeeded"]


async def test_worker_whose_session_was_ended_goes_on_under_one_new_session(database: Database) -> None:
    gate = Gate()
    async with working(database, gate.gate) as worker:
        task_id = await submit_one(database, "gate")
        await gate.begun.wait()
        old = worker.session_id
        await workers.end(database, old, "an operator did it")
        await until(lambda: worker.session_id != old)
        gate.open.set()
        assert (await ended(database, task_id)).state == "succeeded"
        [live] = await workers.list_sessions(database, only_live=True)
        assert live.id == worker.session_id
        [*_, end] = await runs.events(database, (await tasks.get(database, task_id)).run_id)
        assert end.actor == f"worker:{worker.session_id}"
    assert len(await workers.list_sessions(database)) == 2


async def test_guardian_of_a_lost_session_ends_with_a_worker_that_ends_soon_after(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def deaf(context: TaskContext, params: Any) -> Outcome:
        begun.set()
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()
        return Succeeded()

    async with working(database, deaf) as worker:
        await submit_one(database, "deaf")
        await begun.wait()
        old, guardian = worker.session_id, psutil.Process(worker._lifeline.guardian_pid)
        await workers.end(database, old, "an operator did it")
        await until(lambda: worker.session_id != old)
        monkeypatch.setattr(service, "_STUCK_SECONDS", 0.1)
        await worker.stop_now()
        assert not guardian.is_running()
        release.set()


# --- lost answers


def commit_late(
    database: Database, monkeypatch: pytest.MonkeyPatch, of: Callable[..., Any], go: threading.Event
) -> list[threading.Thread]:
    """The first call of `of` gets no answer, and is committed only when `go` is set."""
    real = database._run
    late: list[threading.Thread] = []

    def run(work: Callable[..., Any], args: tuple[Any, ...], actor: str) -> Any:
        if work is not of or late:
            return real(work, args, actor)

        def commit() -> None:
            go.wait()
            real(work, args, actor)

        late.append(threading.Thread(target=commit))
        late[0].start()
        raise StoreUnavailable("the answer is lost")

    monkeypatch.setattr(database, "_run", run)
    return late


async def test_claim_whose_answer_is_lost_is_adopted(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[Any] = []
    starts: list[int] = []

    async def count(context: TaskContext, params: Any) -> Outcome:
        starts.append(context.lease.attempt)
        return Succeeded()

    real = database._run

    def run(work: Callable[..., Any], args: tuple[Any, ...], actor: str) -> Any:
        result = real(work, args, actor)
        if work is store.claim and result and not lost:
            lost.append(result)
            raise StoreUnavailable("the answer is lost")
        return result

    monkeypatch.setattr(database, "_run", run)
    async with working(database, count):
        task = await ended(database, await submit_one(database, "count"))
    assert lost and starts == [1]
    assert await outcomes(database, task.id) == ["succeeded"]


async def test_claim_that_is_committed_after_one_had_looked_for_it_is_found(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await submit_one(database, "fine")
    # Nobody claims it meanwhile: the task becomes claimable just before the late commit.
    write(database, "UPDATE task_state SET queue = 'elsewhere'")
    go, looks = threading.Event(), []
    late = commit_late(database, monkeypatch, store.claim, go)
    real = Claimer._adopt

    async def adopt(self: Claimer, token: str) -> Any:
        looks.append(await real(self, token))
        return looks[-1]

    monkeypatch.setattr(Claimer, "_adopt", adopt)
    async with working(database):
        await until(lambda: looks)

        async def no_claim(self: Claimer) -> Any:
            return 0

        monkeypatch.setattr(Claimer, "claim", no_claim)
        write(database, "UPDATE task_state SET queue = 'default'")
        go.set()
        task = await ended(database, task_id)
        late[0].join()
    assert looks[0] == [] and await outcomes(database, task.id) == ["succeeded"]


async def test_outcome_whose_answer_is_lost_is_recorded_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = database._run, []

    def run(work: Callable[..., Any], args: tuple[Any, ...], actor: str) -> Any:
        result = real(work, args, actor)
        if work in (finishes.finish, finishes.finish_and_claim):
            calls.append(result)
            if len(calls) < 3:
                raise StoreUnavailable("the answer is lost")
        return result

    monkeypatch.setattr(database, "_run", run)
    async with working(database):
        task = await ended(database, await submit_one(database, "fine"))
        await until(lambda: len(calls) == 3)
    assert await outcomes(database, task.id) == ["succeeded"]
    assert not rows(database, "SELECT 1 FROM counter WHERE name = 'late' AND value > 0")


async def test_a_lost_session_is_followed_by_one_that_has_its_functions(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the answer to what it has is lost."""
    described = [{"name": "f", "description": "", "origin": "tests", "params": None}]
    real, unanswered = database._run, 0

    def run(work: Callable[..., Any], args: tuple[Any, ...], actor: str) -> Any:
        nonlocal unanswered
        result = real(work, args, actor)
        if work is functions.store.register and unanswered < 2:
            unanswered += 1
            raise StoreUnavailable("the answer is lost")
        return result

    async def has_functions() -> bool:
        _, [known] = await functions.list_functions(database)
        return known.worker_count == 1

    async with working(database) as worker:
        first = worker.session_id
        monkeypatch.setattr(worker._registry, "functions", lambda: described)
        monkeypatch.setattr(database, "_run", run)
        await workers.end(database, first, "worker lost")
        worker._lost()
        await until(lambda: unanswered == 2)
        await until(has_functions)
        live = await workers.live(database)
        assert [session.id for session in live] == [worker.session_id] != [first]


# --- wake-ups


async def test_work_is_found_without_any_wake_up(database: Database, database_url: str) -> None:
    other = Database(database_url, wake_others=False)
    try:
        async with working(database):
            assert (await ended(database, await submit_one(other, "fine"), 5.0)).state == "succeeded"
    finally:
        other.close()
