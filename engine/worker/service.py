"""A worker: claims what it has room for, runs it, records how it ended. Start, drain, stop."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

from engine import __version__
from engine.errors import StoreUnavailable
from engine.executors.registry import ExecutorRegistry
from engine.model.outcomes import Failed, decide
from engine.model.records import Lease
from engine.model.states import Move
from engine.operations import workers
from engine.store.database import Database
from engine.telemetry import emit
from engine.worker import capture
from engine.worker.claimer import Claimer
from engine.worker.finisher import Finisher
from engine.worker.lifeline import Lifeline
from engine.worker.logbook import Logbook
from engine.worker.options import WorkerOptions
from engine.worker.runner import Attempt, Stop
from engine.worker.sweeper import Sweeper


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
        self._handles: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._work = asyncio.Event()  # there may be something to claim, or room to run it
        self._look = asyncio.Event()  # there may be an order to stop something
        self._is_draining = False
        self._session_id = 0
        self._book = Logbook(lambda: None)
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
            self._database.needs_recovery = False
            await workers.end_all(self._database, "worker lost")
        self._session_id = await workers.register(self._database, self._registration())
        actor = f"worker:{self._session_id}"
        self._finisher = Finisher(self._database, self._book, actor, self._forget)
        self._claimer = Claimer(
            self._database, self._session_id, options.queues, tuple(self._registry.kinds()), actor
        )
        self._sweeper = Sweeper(
            self._database,
            self._session_id,
            lease_seconds=options.lease_seconds,
            sweep_seconds=options.sweep_seconds,
            retention_seconds=options.retention_seconds,
        )
        self._lifeline = Lifeline(
            self._database.beat_target(self._session_id),
            beat_seconds=options.beat_seconds,
            lease_seconds=options.lease_seconds,
            on_lost=self._lost,
        )
        await self._lifeline.start()
        if options.capture_output:
            capture.install()
        self._database.on_wake(self._on_wake)
        for loop in (
            self._claim_loop(),
            self._order_loop(),
            self._fence_loop(),
            self._finisher.run(),
            self._finisher.write_logs_often(),
            self._sweeper.run(),
            self._sweeper.prune_often(),
        ):
            self._loops.append(self._supervised(loop))
        emit("worker.started", session=self._session_id, concurrency=options.concurrency)

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

    def _supervised(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Background loops end only when we cancel them; anything else is worth a loud line."""
        handle = asyncio.create_task(loop)

        def report(done: asyncio.Task[None]) -> None:
            if not done.cancelled() and done.exception() is not None:
                emit("worker.loop_failed", level="error", error=repr(done.exception()))

        handle.add_done_callback(report)
        return handle

    async def drain(self, grace_seconds: float | None = None) -> None:
        """Stop claiming, let running attempts finish for `grace_seconds`, give the rest back, sign off.

        The heartbeat goes on until the last attempt has ended.
        """
        if not self._loops:
            return
        self._is_draining = True
        grace = self._options.grace_seconds if grace_seconds is None else grace_seconds
        if self._handles:
            emit("worker.draining", session=self._session_id, running=self.running, grace_seconds=grace)
            await asyncio.wait(self._handles, timeout=grace)
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.RELEASE)
        if self._handles:
            await asyncio.wait(self._handles)
        await self._sign_off()

    async def stop_now(self) -> None:
        """As `drain` without grace: what runs is interrupted and given back."""
        await self.drain(0.0)

    async def _sign_off(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._finisher.flushed(), 10.0)
        self._database.off_wake(self._on_wake)
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await self._finisher.write_logs()
        try:
            await workers.end(self._database, self._session_id, "stopped")
        except StoreUnavailable as error:
            emit("worker.sign_off_failed", level="warning", reason=str(error))
        await self._lifeline.stop()
        if self._options.capture_output:
            capture.uninstall()
        emit("worker.stopped", session=self._session_id)

    # --- claim and run

    async def _claim_loop(self) -> None:
        while True:
            self._work.clear()
            room = self._options.concurrency - self.running
            claimed: list[Lease] = []
            if room > 0 and not self._is_draining and self._lifeline.is_safe:
                claimed = await self._claimer.claim(room)
                for lease in claimed:
                    self._begin(lease)
            if self._is_draining:
                return
            if len(claimed) < room or room <= 0:
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        poll = self._options.poll_seconds * random.uniform(0.8, 1.2)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._work.wait(), poll)

    def _begin(self, lease: Lease) -> None:
        attempt = Attempt(lease, self._database, self._registry, self._book, f"worker:{self._session_id}")
        self._attempts[lease.task_id] = attempt
        handle = asyncio.create_task(self._attend(attempt))
        self._handles.add(handle)
        handle.add_done_callback(self._handles.discard)

    async def _attend(self, attempt: Attempt) -> None:
        lease = attempt.lease
        try:
            outcome = await attempt.run()
        finally:
            if self._attempts.get(lease.task_id) is attempt:
                del self._attempts[lease.task_id]
            self._work.set()
        if outcome is not None:
            self._finisher.add(lease, outcome)
            if isinstance(outcome, Failed):
                self._wake_for_retry(lease, outcome)

    def _wake_for_retry(self, lease: Lease, outcome: Failed) -> None:
        """Polling alone would make a short backoff as long as the poll interval."""
        decision = decide(lease, outcome)
        if decision.move is Move.RETRY:
            assert self._loop is not None
            self._loop.call_later(decision.delay_ms / 1000 + 0.005, self._work.set)

    def _forget(self, lease: Lease) -> None:
        """The outcome came too late; nothing is left to do for this lease."""

    # --- orders from outside

    async def _order_loop(self) -> None:
        while True:
            self._look.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), self._options.poll_seconds)
            if self._attempts:
                with suppress(StoreUnavailable):
                    await self._follow_orders()

    async def _follow_orders(self) -> None:
        asked = dict(self._attempts)
        orders = await workers.orders(self._database, self._session_id)
        for task_id, attempt in asked.items():
            if self._attempts.get(task_id) is not attempt:
                continue  # it ended meanwhile
            token, is_cancelling = orders.get(task_id, ("", False))
            if token != attempt.lease.token:
                attempt.stop(Stop.LOST)
            elif is_cancelling:
                attempt.stop(Stop.CANCEL)

    async def _fence_loop(self) -> None:
        """When the lease may have passed to others, stop what we run: its outcome would be refused."""
        while True:
            await asyncio.sleep(min(self._options.beat_seconds, 1.0) / 2)
            if not self._lifeline.is_safe and self._attempts:
                emit("worker.fenced", level="warning", session=self._session_id, running=self.running)
                for attempt in list(self._attempts.values()):
                    attempt.stop(Stop.RELEASE)

    def _lost(self) -> None:
        """Others have declared our session dead: what we run is theirs now. Go on under a new session."""
        emit("worker.lost", level="warning", session=self._session_id, running=self.running)
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.LOST)
        self._loops.append(self._supervised(self._register_again()))

    async def _register_again(self) -> None:
        while not self._is_draining:
            try:
                session_id = await workers.register(self._database, self._registration())
                break
            except StoreUnavailable:
                await asyncio.sleep(1.0)
        else:
            return
        old, self._session_id = self._lifeline, session_id
        self._lifeline = Lifeline(
            self._database.beat_target(session_id),
            beat_seconds=self._options.beat_seconds,
            lease_seconds=self._options.lease_seconds,
            on_lost=self._lost,
        )
        await self._lifeline.start()
        self._claimer.session_id = session_id
        self._work.set()
        emit("worker.registered_again", session=session_id)
        await old.stop()

    # --- wake-ups

    def _on_wake(self, queue: str) -> None:
        """From any thread. Looks at the flags first: a busy system wakes us thousands of times a second."""
        if not (self._look if queue == "!" else self._work).is_set():
            assert self._loop is not None
            with suppress(RuntimeError):  # the loop is closing
                self._loop.call_soon_threadsafe(self._woken, queue)

    def _woken(self, queue: str) -> None:
        if queue in ("!", ""):
            self._look.set()
        if queue != "!":
            self._claimer.start_over()
            self._work.set()
