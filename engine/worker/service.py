"""A worker: claims what it has room for, runs it, records how it ended. Start, drain, stop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self

from engine import __version__
from engine.errors import StoreUnavailable
from engine.executors.registry import ExecutorRegistry
from engine.model.outcomes import Failed, Released, decide
from engine.model.records import Lease
from engine.model.states import Move
from engine.operations import functions, workers
from engine.store.database import CONTROL, ENDED, SIGNALLED, Database
from engine.telemetry import emit
from engine.worker import capture
from engine.worker.claimer import MAX_BATCH, Claimer
from engine.worker.context import Surroundings
from engine.worker.finisher import Finisher
from engine.worker.lifeline import Lifeline
from engine.worker.options import WorkerOptions
from engine.worker.runner import Attempt, Stop
from engine.worker.scheduler import Scheduler
from engine.worker.sweeper import Sweeper, end_processes

# Two writes at once, each with a claim: while the database is busy with one, what the other brought is run.
_LANES = 2
_FEW = 20  # so many are not worth being claimed in halves
_LOOP_PAUSE_SECONDS = 1.0
_CATCH_UP_SECONDS = 0.2
_PATIENCE_SECONDS = 10.0  # with a database that does not answer while we sign off
_ANSWER_SECONDS = 1.0  # with a claim under way; longer, and the tasks have waited enough
_SHOWN = 20  # names in a log line
_STUCK_SECONDS = 30.0  # with an executor that does not end when it is cancelled


class Worker:
    """One session of one process. Made, started, drained; not used again after that.

    Runs up to `options.concurrency` attempts at once on the caller's event loop.
    """

    def __init__(
        self, database: Database, registry: ExecutorRegistry, options: WorkerOptions | None = None
    ) -> None:
        self._database = database
        self._registry = registry
        self._options = options or WorkerOptions()
        self._attempts: dict[int, Attempt] = {}
        self._handles: dict[Attempt, asyncio.Task[None]] = {}
        self._loops: list[asyncio.Task[None]] = []
        self._work = asyncio.Event()  # there may be something to claim, or room to run it
        self._look = asyncio.Event()  # there may be an order to stop something
        self._claiming: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._is_draining = False
        self._session_id = 0
        self._around = Surroundings(database, registry)
        # Executors whose attempts may be over before what they started: it keeps its slot.
        self._overdue: list[Any] = [each for each in registry if hasattr(each, "overdue")]
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def session_id(self) -> int:
        return self._session_id

    @property
    def running(self) -> int:
        """Attempts under way."""
        return len(self._attempts)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.drain()

    # --- life

    async def start(self) -> None:
        """Register a session and begin to claim."""
        options = self._options
        self._loop = asyncio.get_running_loop()
        if self._database.needs_recovery:
            # No other process can use this database: whoever was here before us is dead.
            for session in await workers.live(self._database):
                await end_processes(session)
            await workers.end_all(self._database, "worker lost")
            self._database.needs_recovery = False
        self._session_id = await workers.register(self._database, self._registration())
        await self._register_functions()
        actor = self._around.actor = f"worker:{self._session_id}"
        lanes = min(_LANES, self._database.writers)
        most = min(MAX_BATCH, max(options.concurrency // lanes, _FEW))
        self._claimer = Claimer(
            self._database,
            self._session_id,
            options.queues,
            tuple(self._registry.kinds()),
            actor,
            self._room,
            self._take,
            self._work.set,
            most,
        )
        self._finisher = Finisher(self._database, self._around.book, self._claimer, actor, lanes)
        self._sweeper = Sweeper(
            self._database,
            self._session_id,
            lease_seconds=options.lease_seconds,
            sweep_seconds=options.sweep_seconds,
            retention_seconds=options.retention_seconds,
        )
        self._lifeline = self._new_lifeline(self._session_id)
        await self._lifeline.start()
        if options.capture_output:
            capture.install()
        self._database.on_wake(self._on_wake)
        self._claiming = self._supervised(self._claim_loop)
        for loop in (
            self._order_loop,
            self._fence_loop,
            self._finisher.write_logs_often,
            self._sweeper.run,
            self._sweeper.clear_the_way,
            self._sweeper.tidy_often,
            Scheduler(self._database).run,
        ):
            self._supervised(loop)
        emit("worker.started", session=self._session_id, concurrency=options.concurrency)

    async def _insist_on_functions(self) -> None:
        """The session that had them is over: others would think that nobody has."""
        while True:
            try:
                return await self._register_functions()
            except StoreUnavailable:
                await asyncio.sleep(_LOOP_PAUSE_SECONDS)

    async def _register_functions(self) -> None:
        described = self._registry.functions()
        if not described:
            return
        await functions.register(self._database, described, self._session_id)
        here = {item["name"] for item in described}
        if missing := [name for name in await functions.names(self._database) if name not in here]:
            emit("worker.functions_missing", level="warning", names=missing[:_SHOWN], count=len(missing))

    def _registration(self) -> workers.Registration:
        host = socket.gethostname()
        return workers.Registration(
            name=self._options.name or f"{host}:{os.getpid()}",
            host=host,
            pid=os.getpid(),
            version=__version__,
            queues=list(self._options.queues),
            concurrency=self._options.concurrency,
        )

    def _new_lifeline(self, session_id: int) -> Lifeline:
        return Lifeline(
            self._database.beat_target(session_id),
            beat_seconds=self._options.beat_seconds,
            lease_seconds=self._options.lease_seconds,
            on_lost=self._lost,
        )

    def _supervised(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Keep a background loop going: a worker without one of them would only look alive."""

        async def keep_going() -> None:
            while True:
                try:
                    return await loop()
                except Exception as error:  # loud, and not the end
                    emit("worker.loop_failed", level="error", loop=loop.__name__, error=repr(error))
                    await asyncio.sleep(_LOOP_PAUSE_SECONDS)

        handle = asyncio.create_task(keep_going(), name=f"engine-{loop.__name__}")
        self._loops.append(handle)
        return handle

    async def drain(self, grace_seconds: float | None = None) -> None:
        """Stop claiming, let running attempts finish for `grace_seconds`, give the rest back, sign off.

        The heartbeat goes on until the last attempt has ended. A second call shortens the grace of the
        first; each returns when the worker has signed off.
        """
        if not self._loops and (self._ending is None or self._ending.done()):
            return
        self._is_draining = True
        self._work.set()
        grace = self._options.grace_seconds if grace_seconds is None else grace_seconds
        self._around.draining.set()
        if self._handles:
            emit("worker.draining", session=self._session_id, running=self.running, grace_seconds=grace)
            await asyncio.wait(self._handles.values(), timeout=grace)
        if self._claiming is not None:  # it would take what we give back
            await asyncio.wait({self._claiming}, timeout=_ANSWER_SECONDS)
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        self._release_all()
        await asyncio.shield(self._ending)

    async def stop_now(self) -> None:
        """As `drain` without grace: what runs is interrupted and given back."""
        await self.drain(0.0)

    def _release_all(self) -> None:
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.RELEASE)

    async def _end(self) -> None:
        if self._claiming is not None:  # a claim under way may still bring leases, to be given back
            await asyncio.wait({self._claiming}, timeout=_PATIENCE_SECONDS)
        if self._handles:
            await asyncio.wait(self._handles.values(), timeout=_STUCK_SECONDS)
        for attempt in self._attempts.values():
            emit("worker.attempt_stuck", level="error", task=attempt.lease.task_id, kind=attempt.lease.kind)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._finisher.flushed(), _PATIENCE_SECONDS)
        self._database.off_wake(self._on_wake)
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await self._finisher.stop()
        try:
            await workers.end(self._database, self._session_id, "stopped")
        except StoreUnavailable as error:  # others will notice that it beats no more
            emit("worker.sign_off_failed", level="warning", reason=str(error))
        await self._lifeline.stop()
        await self._around.evaluator.close()
        if self._options.capture_output:
            capture.uninstall()
        emit("worker.stopped", session=self._session_id)

    # --- claim and run

    async def _claim_loop(self) -> None:
        while True:
            self._work.clear()
            if self._finisher.is_due and self._claimer.may_claim:
                self._claimer.has_more = True  # the write that is about to begin looks, and has us look again
                await self._wait_for_work()
                continue
            claimed = await self._claimer.claim()
            if self._is_draining:
                return
            if not claimed or not self._claimer.has_more:
                await self._wait_for_work()

    def _room(self) -> int:
        """How many more attempts may run."""
        if self._is_draining or not self._lifeline.is_safe:
            return 0
        overdue = sum(int(each.overdue) for each in self._overdue)
        return self._options.concurrency - self.running - overdue

    async def _wait_for_work(self) -> None:
        poll = self._options.poll_seconds * random.uniform(0.8, 1.2)
        with suppress(TimeoutError):
            async with asyncio.timeout(poll):  # wait_for() would make a task, which is one more to wake
                await self._work.wait()

    def _take(self, leases: list[Lease]) -> None:
        for lease in leases:
            if self._is_draining:
                self._finisher.add(lease, Released())
            else:
                self._begin(lease)

    def _begin(self, lease: Lease) -> None:
        assert self._loop is not None
        held = self._attempts.get(lease.task_id)
        if held is not None and held.lease.token == lease.token:  # found by its token as well
            return
        attempt = Attempt(lease, self._around)
        self._attempts[lease.task_id] = attempt
        # Asked for the running loop, as asyncio.create_task does, older Pythons make a system call.
        handle = self._loop.create_task(self._attend(attempt), name=f"task-{lease.task_id}")
        self._handles[attempt] = handle

    async def _attend(self, attempt: Attempt) -> None:
        lease = attempt.lease
        try:
            outcome = await attempt.run(self._handles[attempt])
        finally:
            del self._handles[attempt]
            if self._attempts.get(lease.task_id) is attempt:
                del self._attempts[lease.task_id]
        self._finisher.add(lease, outcome)
        if isinstance(outcome, Failed):
            self._wake_for_retry(lease, outcome)

    def _wake_for_retry(self, lease: Lease, outcome: Failed) -> None:
        """Polling alone would make a short backoff as long as the poll interval."""
        decision = decide(lease, outcome)
        if decision.move is Move.RETRY:
            assert self._loop is not None
            self._loop.call_later(decision.delay_ms / 1000 + 0.005, self._work.set)

    # --- orders from outside

    async def _order_loop(self) -> None:
        while True:
            self._look.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), self._options.poll_seconds)
            if self._attempts or self._claimer.is_in_doubt:
                with suppress(StoreUnavailable):
                    await self._follow_orders()

    async def _follow_orders(self) -> None:
        asked, session_id = dict(self._attempts), self._session_id
        orders = await workers.orders(self._database, session_id)
        for task_id, attempt in asked.items():
            if self._attempts.get(task_id) is not attempt or attempt.lease.session_id != session_id:
                continue  # it ended meanwhile, or is stopped already with its lost session
            token, why = orders.get(task_id, ("", None))
            if token != attempt.lease.token:
                attempt.stop(Stop.LOST)
            elif why is not None:
                attempt.stop(Stop.CANCEL, why)
        held = {task_id: token for task_id, (token, _) in orders.items()}
        known = self._attempts.keys() | self._finisher.task_ids
        self._take(await self._claimer.recover(held, known))

    async def _fence_loop(self) -> None:
        """When the lease may have passed to others, stop what we run: its outcome would be refused."""
        while True:
            await asyncio.sleep(min(self._options.beat_seconds, 1.0) / 2)
            if self._lifeline.is_safe:
                continue
            await asyncio.sleep(_CATCH_UP_SECONDS)  # if a task blocked the loop, good beats lie unread
            running = [attempt for attempt in self._attempts.values() if not attempt.is_stopping]
            if running and not self._lifeline.is_safe:
                emit("worker.fenced", level="warning", session=self._session_id, running=len(running))
                self._release_all()

    def _lost(self) -> None:
        """Others have declared our session dead: what we run is theirs now. Go on under a new session."""
        emit("worker.lost", level="warning", session=self._session_id, running=self.running)
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.LOST)
        if not self._is_draining:
            self._supervised(self._register_again)

    async def _register_again(self) -> None:
        session_id = 0
        while not session_id:
            try:
                session_id = await workers.register(self._database, self._registration())
            except StoreUnavailable:
                await asyncio.sleep(_LOOP_PAUSE_SECONDS)
        lifeline = self._new_lifeline(session_id)
        await lifeline.start()
        old, self._lifeline = self._lifeline, lifeline
        self._session_id = self._claimer.session_id = self._sweeper.observer_id = session_id
        self._claimer.actor = self._finisher.actor = self._around.actor = f"worker:{session_id}"
        self._work.set()
        emit("worker.registered_again", session=session_id)
        self._supervised(self._insist_on_functions)  # apart: trouble with it must not register once more
        try:
            # The old guardian stays until the old attempts' processes are gone: it would kill them for us.
            if self._handles:
                await asyncio.wait(self._handles.values(), timeout=_STUCK_SECONDS)
        finally:  # also when we end meanwhile
            await old.stop()

    # --- wake-ups

    def _on_wake(self, queue: str) -> None:
        """From any thread. Looks at the flags first: a busy system wakes us thousands of times a second."""
        if queue not in (ENDED, SIGNALLED) and not (self._look if queue == CONTROL else self._work).is_set():
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop is closing
                self._loop.call_soon_threadsafe(self._woken, queue)

    def _woken(self, queue: str) -> None:
        if queue in (CONTROL, ""):
            self._look.set()
        if queue != CONTROL:
            self._claimer.start_over(queue)
            self._work.set()
