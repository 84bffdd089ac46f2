"""An engine for one test: in memory, with a clock that moves when nothing else can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any, TypeVar

from engine.errors import Conflict, NotFound
from engine.executors.base import Executor
from engine.executors.registry import ExecutorRegistry
from engine.executors.sleep import SleepExecutor
from engine.functions.registry import FunctionRegistry
from engine.model.graph import Graph
from engine.model.json import JSON
from engine.model.records import Run, Task
from engine.model.states import FINAL_RUN_STATES, FINAL_TASK_STATES, TaskState
from engine.model.workflows import FUNCTION
from engine.operations import functions as registrations
from engine.operations import schedules
from engine.sdk.checks import Kinds
from engine.sdk.embedded import Engine
from engine.sdk.workflows import Definition
from engine.store import queries
from engine.store.beat import BeatTarget
from engine.store.database import Database, Transaction
from engine.testing.clock import START, VirtualClock, VirtualSleep, length
from engine.testing.ended import Ended, ended
from engine.testing.memory import give_schema
from engine.testing.pace import Pace, Standstill
from engine.worker.lifeline import Lifeline
from engine.worker.options import WorkerOptions
from engine.worker.service import Worker

T = TypeVar("T")
Signals = Mapping[str, JSON] | Iterable[tuple[str, JSON]]

PATIENCE_SECONDS = 30.0  # of real time
_SHOWN_TASKS = 20


class Stalled(AssertionError):
    """What a test waits for can never come: nothing can go on, and nothing is due at any time."""


class Harness(Engine):
    """`async with Harness(functions=[load]) as engine:` is an `Engine` whose time is `engine.clock`.

    The clock moves while the test waits here (`run`, `wait`, `ended`, `advance`, `fire`), and then only when
    nothing can go on otherwise. `executors` are the test's alone (None: those that are installed); functions
    there are always. What tasks start in other processes is not ended if the test is killed.
    """

    def __init__(
        self,
        *,
        functions: Iterable[Any] = (),
        services: Mapping[str, Any] | None = None,
        executors: Iterable[Executor] | None = None,
        start: datetime = START,
        options: WorkerOptions | None = None,
    ) -> None:
        super().__init__(
            "sqlite://",
            functions=functions,
            services=services,
            registry=None if executors is None else ExecutorRegistry.from_executors(executors),
            options=options or WorkerOptions(concurrency=100, grace_seconds=0.0),
        )
        self.clock = VirtualClock(start)
        self._pace: Pace | None = None

    # --- what is given after the start

    async def add_functions(self, *functions: Any) -> None:
        """As `functions` of the constructor. Raises `ConfigError` if another one has the name."""
        self._functions.include(FunctionRegistry(functions))
        await registrations.register(self._database, self._functions.describe())

    def add_services(self, **services: Any) -> None:
        """What functions find with `ctx.get_dependency(key)`."""
        self._services.update(services)

    # --- to the end of a run

    async def run(
        self,
        workflow: Definition | Graph | str,
        params: Mapping[str, JSON] | None = None,
        *,
        signals: Signals = (),
        until: timedelta | datetime | None = None,
        timeout: float = PATIENCE_SECONDS,
    ) -> Ended:
        """Start a workflow or a graph, send `signals` in order (they wait for whoever wants them), and look
        at it as `ended` does.
        """
        if isinstance(workflow, Graph):
            accepted = await self.submit(workflow)
        else:
            accepted = await self.execute(workflow, params)
        for name, payload in signals.items() if isinstance(signals, Mapping) else signals:
            await self.signal(accepted.run_id, name, payload)
        return await self.ended(accepted.run_id, until=until, timeout=timeout)

    async def ended(
        self,
        run_id: int,
        *,
        until: timedelta | datetime | None = None,
        timeout: float = PATIENCE_SECONDS,
    ) -> Ended:
        """A run once it has ended, with all that follows at once: callbacks, and what undoes a saga.

        Or as it is once the clock has come to `until` (or moved so far). Raises `Stalled` if it can never
        end, and `TimeoutError` after `timeout` seconds of real time.
        """
        limit = self.clock.moment + until if isinstance(until, timedelta) else until
        run = await self._drive(_final(run_id), limit, timeout, run_id)
        if run is None:
            return await ended(self._database, await self.get(run_id))
        await self._drive(_nothing, self.clock.moment, timeout, run_id)
        return await ended(self._database, run, await self._undo(run_id, timeout))

    async def wait(self, run_id: int, timeout: float | None = PATIENCE_SECONDS) -> Run:
        """The run once it has ended; raises as `ended` does."""
        run = await self._drive(_final(run_id), None, timeout, run_id)
        assert run is not None  # without a limit the clock goes on
        return run

    # --- time

    async def advance(
        self, by: timedelta | None = None, *, timeout: float = PATIENCE_SECONDS, **parts: float
    ) -> datetime:
        """Let time pass: `advance(hours=3)`. What is due in between happens at its time.

        Without arguments only what can go on without time does. Returns what time it is then. Raises
        `InvalidInput` for what is no length of time, or is negative.
        """
        to = self.clock.moment + length(by, parts)
        await self._drive(_nothing, to, timeout)
        return self.clock.moment

    async def jump(self, by: timedelta | None = None, **parts: float) -> datetime:
        """Move the clock at once, as if the machine had slept: nothing happens at the times in between."""
        return self.clock.advance(by, **parts)

    async def fire(self, schedule: str, *, timeout: float = PATIENCE_SECONDS) -> datetime:
        """Go on to the next time of a schedule, by id or name, and let happen what it starts.

        Returns that time. Raises `NotFound`, and `Conflict` if it never fires again.
        """
        found = await schedules.get(self._database, schedule)
        if found.next_at is None or found.is_paused:
            raise Conflict(f"schedule {found.name!r} is {'paused' if found.is_paused else 'over'}")
        await self._drive(_nothing, found.next_at, timeout)
        return found.next_at

    async def _drive(
        self,
        find: Callable[[Transaction], T | None],
        until: datetime | None,
        timeout: float | None,
        run_id: int | None = None,
    ) -> T | None:
        if self._pace is None:
            raise Conflict("the engine is not open; use it inside `async with Harness(…) as engine:`")
        try:
            async with asyncio.timeout(timeout):
                return await self._pace.drive(find, until)
        except Standstill:
            why = "nothing can go on, and nothing is due at any time"
            raise Stalled(f"{why}: {await self._told(run_id)}") from None
        except TimeoutError:
            why = f"something still works after {timeout:g} seconds of real time"
            raise TimeoutError(f"{why}: {await self._told(run_id)}") from None

    async def _told(self, run_id: int | None) -> str:
        """What keeps a run from ending."""
        if run_id is None:
            return f"it is {self.clock.moment.isoformat()}"
        run = await self.get(run_id)
        found = await self.tasks(run_id)
        open_ = [self._told_of(task) for task in found if task.state not in FINAL_TASK_STATES]
        return "; ".join([f"run {run_id} is {run.state}", *open_[:_SHOWN_TASKS]])

    def _told_of(self, task: Task) -> str:
        state = f"task {task.name!r} is {task.state}"
        if task.state is TaskState.RUNNING and self.clock.waits_for_a_signal(task.id):
            return f"{state} and waits for a signal"
        if task.state is TaskState.AVAILABLE and self._kinds is not None:
            kinds = self._kinds.registry.kinds()
            if task.kind not in kinds:
                return f"{state}, and nothing here performs {task.kind!r} (but {', '.join(kinds)})"
        return state

    async def _undo(self, run_id: int, timeout: float) -> Ended | None:
        try:
            undoing = (await self.saga(run_id)).compensation_run_id
        except NotFound:
            return None
        return None if undoing is None else await ended(self._database, await self.wait(undoing, timeout))

    # --- opening

    def _connect(self) -> Database:
        database = Database(self._url, clock=self.clock, run_defaults=self._run_defaults)
        try:
            give_schema(database)
        except BaseException:
            database.close()
            raise
        return database

    async def _start(self, workers: list[Worker], database: Database, stack: AsyncExitStack) -> None:
        registry = self._make_registry(database, stack)
        self._kinds = Kinds(registry, are_all=True)
        worker = _Unguarded(database, registry, self._options)
        stack.push_async_callback(worker.drain)
        await worker.start()
        workers.append(worker)
        self._pace = Pace(database, self.clock, registry.kinds(), self._options.concurrency)

    def _make_registry(self, database: Database, stack: AsyncExitStack) -> ExecutorRegistry:
        registry = super()._make_registry(database, stack)
        executors = [self._on_the_clock(each) for each in registry]
        if FUNCTION not in registry:  # functions may be added later
            for each in self._function_executors(self._executor_settings, is_alone=database.is_private):
                stack.push_async_callback(each.close)
                executors.append(each)
        return ExecutorRegistry.from_executors(executors)

    def _on_the_clock(self, executor: Executor) -> Executor:
        if isinstance(executor, SleepExecutor):
            return VirtualSleep(executor.settings, self.clock)
        return executor

    def _forget(self) -> None:
        super()._forget()
        self._pace = None


class _Unguarded(Worker):
    """Nobody else can use the database, so no guardian has to beat for it: a process less to start."""

    def _new_lifeline(self, session_id: int) -> Lifeline:
        options = self._options
        return _NoGuardian(
            BeatTarget(session_id),
            beat_seconds=options.beat_seconds,
            lease_seconds=options.lease_seconds,
            on_lost=self._lost,
        )


class _NoGuardian(Lifeline):
    async def start(self) -> None:
        return None


def _final(run_id: int) -> Callable[[Transaction], Run | None]:
    def find(tx: Transaction) -> Run | None:
        run = queries.get_run(tx, run_id)
        if run is None:
            raise NotFound(f"run not found: {run_id}")
        return run if run.state in FINAL_RUN_STATES else None

    return find


def _nothing(tx: Transaction) -> None:
    return None
