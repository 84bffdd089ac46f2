"""The embedded engine: a database and workers inside the program that uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from engine.errors import Conflict, NotFound
from engine.executors.base import Executor, ExecutorSettings
from engine.executors.function import FunctionExecutor
from engine.executors.plugin import PluginExecutor
from engine.executors.realtime import RealtimeExecutor
from engine.executors.registry import ExecutorRegistry
from engine.functions.registry import FunctionRegistry
from engine.model.graph import Graph
from engine.model.outcomes import NO_REASON
from engine.model.plugins import KIND as PLUGIN
from engine.model.plugins import Binding
from engine.model.records import Event, LogLine, Run, SavedWorkflow, Task
from engine.model.run_defaults import RunDefaults
from engine.model.states import RunState, TaskState
from engine.operations import functions as registrations
from engine.operations import runs
from engine.operations.submits import Accepted
from engine.sdk.checks import Kinds
from engine.sdk.opening import store_errors
from engine.sdk.pages import check_page, check_states
from engine.sdk.plugins import BindingLike, Plugins, bind, bindings_of, check_bindings, registry_of
from engine.sdk.requests import SubmitMany, SubmitOne
from engine.sdk.waiting import Watch
from engine.sdk.workflows import Definition, Workflows
from engine.store import migrate
from engine.store.database import Database
from engine.store.dialects import parse_url
from engine.telemetry import emit
from engine.worker.options import WorkerOptions, check_count, queue_names
from engine.worker.service import Worker

DEFAULT_URL = "sqlite:///task-engine.db"


class Engine(Workflows, Plugins):
    """`async with Engine(url) as engine:` opens the database and works until the block ends.

    SQLite: the file is this program's alone unless `shared`, and gets its schema by itself. Postgres: the
    schema must be there (`task-engine db upgrade`). `workers=0` only submits and looks. Tasks are
    performed by the installed executors, or by those of `registry`, and besides by `executors`; tasks of the
    kind `function` by `functions` (`@task`s, plain functions, registries), which find `services` by key.
    `plugins` (objects or classes) are called besides the installed ones, where `plugin_bindings` say.
    `executor_settings` say what tasks may do (`ExecutorSettings`); `options` replaces `concurrency` and
    `queues`; `run_defaults` hold for tasks of workflows that say nothing themselves. With `wakes_others` off,
    other processes notice what is submitted here when they next poll. Methods may be called from the loop
    that opened it.

    Raises `ConfigError` for settings that cannot work. Opening raises `ConfigError` (URL, executor, a file in
    use), `StoreUnavailable`, `SchemaMismatch`, and `Conflict` while it is open. It can be opened again
    once it is closed.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        workers: int = 1,
        concurrency: int = 10,
        queues: Iterable[str] = (),
        executors: Iterable[Executor] = (),
        functions: Iterable[Any] = (),
        services: Mapping[str, Any] | None = None,
        plugins: Iterable[Any] = (),
        plugin_bindings: Iterable[BindingLike] = (),
        registry: ExecutorRegistry | None = None,
        executor_settings: ExecutorSettings | None = None,
        options: WorkerOptions | None = None,
        shared: bool = False,
        wakes_others: bool = True,
        run_defaults: RunDefaults | None = None,
        pool_size: int = 4,
    ) -> None:
        check_count("workers", workers, least=0)
        check_count("pool_size", pool_size, least=1)
        self._url = url
        self._workers = workers
        self._executors = tuple(executors)
        self._functions = FunctionRegistry(functions)
        self._services = dict(services or {})
        self._plugins = tuple(plugins)
        self._bindings = bindings_of(plugin_bindings)
        self._unbound = self._bindings
        self._registry = registry
        self._options = options or WorkerOptions(concurrency=concurrency, queues=queue_names(queues))
        self._executor_settings = replace(
            executor_settings or ExecutorSettings(), threads=self._options.concurrency * max(workers, 1)
        )
        self._exclusive = not shared
        self._wakes_others = wakes_others
        self._run_defaults = run_defaults or RunDefaults()
        self._pool_size = pool_size
        self._kinds: Kinds | None = None
        self._is_in_use = False  # from the beginning of opening to the end of closing
        self._opened: tuple[Database, Watch] | None = None
        self._stack = AsyncExitStack()

    # --- life

    async def __aenter__(self) -> Self:
        if self._is_in_use:
            raise Conflict("the engine is already open")
        async with AsyncExitStack() as stack:
            self._is_in_use = True
            stack.callback(self._release)
            database = await asyncio.to_thread(self._open)
            stack.push_async_callback(asyncio.to_thread, database.close)
            watch = Watch(database)
            stack.push_async_callback(watch.close)
            await registrations.register(database, self._functions.describe())
            self._unbound = self._bindings
            await self._bind_all(database)
            if self._workers:
                workers: list[Worker] = []
                await self._start(workers, database, stack)
            self._opened = database, watch
            stack.callback(self._forget)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let running tasks finish (`options.grace_seconds`), give the rest back, close the database."""
        await self._stack.aclose()

    def _open(self) -> Database:
        with store_errors(parse_url(self._url)):
            return self._connect()

    def _connect(self) -> Database:
        database = Database(
            self._url,
            pool_size=self._pool_size,
            exclusive=self._exclusive,
            wake_others=self._wakes_others,
            run_defaults=self._run_defaults,
        )
        try:
            if database.dialect.locks_rows:
                migrate.check(database.engine)
            else:
                migrate.upgrade(database.engine, database.dialect)
        except BaseException:
            database.close()
            raise
        return database

    async def _start(self, workers: list[Worker], database: Database, stack: AsyncExitStack) -> None:
        registry = self._make_registry(database, stack)
        stack.push_async_callback(_drain, workers)
        # With others on the database, a kind unknown here may be known there.
        self._kinds = Kinds(registry, are_all=database.is_private)
        for _ in range(self._workers):
            worker = Worker(database, registry, self._options)
            workers.append(worker)
            await worker.start()

    def _make_registry(self, database: Database, stack: AsyncExitStack) -> ExecutorRegistry:
        settings = self._executor_settings
        protected = (*settings.protected_files, *map(Path, database.files))
        settings = replace(settings, protected_files=protected)
        registry = self._registry
        if registry is None:
            registry = ExecutorRegistry.from_entry_points(settings)
        others: list[Any] = []
        if len(self._functions):
            others += self._function_executors(settings, is_alone=database.is_private)
        kept: Iterable[Executor] = registry
        if self._plugins:  # the installed executor does not know them
            installed = registry.get(PLUGIN) if PLUGIN in registry else None
            theirs = installed.settings if isinstance(installed, PluginExecutor) else settings
            others.append(PluginExecutor(theirs, registry_of(self._plugins, theirs)))
            kept = (each for each in registry if each.kind != PLUGIN)
        for made in others:
            stack.push_async_callback(made.close)
        others += self._executors
        return ExecutorRegistry.from_executors([*kept, *others]) if others else registry

    def _function_executors(self, settings: ExecutorSettings, *, is_alone: bool) -> list[Any]:
        return [
            kind(
                self._functions,
                services=self._services,
                settings=settings,
                threads=settings.threads,
                is_alone=is_alone,
            )
            for kind in (FunctionExecutor, RealtimeExecutor)
        ]

    async def _bind_all(self, database: Database) -> None:
        """Keep the bindings that were given; those to workflows that are not there yet wait for them."""
        if not self._unbound:
            return
        known = registry_of(self._plugins, self._executor_settings)
        check_bindings(self._unbound, known)
        waiting: list[Binding] = []
        for binding in self._unbound:
            try:
                await bind(database, [binding], known)
            except NotFound:
                waiting.append(binding)
        if waiting:
            emit("plugin.waits_for_workflow", level="warning", bindings=[each.id for each in waiting])
        self._unbound = waiting

    async def save(self, *given: Definition, actor: str = "local") -> list[SavedWorkflow]:
        saved = await super().save(*given, actor=actor)
        await self._bind_all(self._database)
        return saved

    save.__doc__ = Workflows.save.__doc__

    def _forget(self) -> None:
        self._opened = None

    def _release(self) -> None:
        self._is_in_use = False

    @property
    def _parts(self) -> tuple[Database, Watch]:
        if self._opened is None:
            raise Conflict("the engine is not open; use it inside `async with engine.Engine(…) as e:`")
        return self._opened

    @property
    def _database(self) -> Database:
        return self._parts[0]

    # --- submit

    async def submit(
        self, graph: Graph, *, key: str | None = None, name: str | None = None, actor: str = "local"
    ) -> Accepted:
        """Store `graph` as a new run, durably: see `engine.submit`."""
        request = SubmitOne.of(graph, key=key, name=name, kinds=self._kinds)
        return await self._database.run(request, actor=actor)

    async def submit_many(self, graphs: Iterable[Graph], *, actor: str = "local") -> list[Accepted]:
        """One run per graph, all in one transaction."""
        request = SubmitMany.of(graphs, kinds=self._kinds)
        return await self._database.run(request, actor=actor)

    def wake(self, *queues: str) -> None:
        """Tell workers that `queues` (none named: some) have work: after committing a submit of your own.

        Without it they find the work at their next poll, within `options.poll_seconds`. Not needed after
        `submit` of this engine. May be called from any thread.
        """
        self._database.wake(set(queues or {""}))

    # --- look

    async def get(self, run_id: int) -> Run:
        return await runs.get(self._database, run_id)

    async def list_runs(
        self, *, state: str | None = None, name: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[Run]:
        """Newest first, 50 unless `limit` says otherwise; read on with `before` = id of the last one."""
        check_page(limit)
        check_states([state], RunState)
        return await runs.list_runs(self._database, state=state, name=name, before=before, limit=limit)

    async def tasks(
        self, run_id: int, *, state: str | None = None, after: int | None = None, limit: int = 1000
    ) -> list[Task]:
        """Tasks of a run in the order of submission, the first 1000 unless `limit` says otherwise; read on
        with `after` = id of the last one.
        """
        check_page(limit)
        check_states([state], TaskState)
        return await runs.tasks(self._database, run_id, state=state, after=after, limit=limit)

    async def events(self, run_id: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """What happened, in order, the first 1000 unless `limit` says otherwise; read on with `after` =
        number of the last one.
        """
        check_page(limit)
        return await runs.events(self._database, run_id, after=after, limit=limit)

    async def logs(
        self, run_id: int, *, task_name: str | None = None, limit: int = 1000, offset: int = 0
    ) -> list[LogLine]:
        """In order, the first 1000 lines unless `limit` says otherwise."""
        check_page(limit, offset)
        return await runs.logs(self._database, run_id, task_name=task_name, limit=limit, offset=offset)

    async def wait(self, run_id: int, timeout: float | None = None) -> Run:
        """The run once it has ended. Raises `NotFound`, and after `timeout` seconds `TimeoutError`."""
        return await self._parts[1].wait(run_id, timeout)

    # --- control

    async def pause(self, run_id: int, *, actor: str = "local") -> Run:
        """After this returns no new attempt of the run starts until `resume`. Running ones go on."""
        return await runs.hold(self._database, run_id, actor=actor)

    async def resume(self, run_id: int, *, actor: str = "local") -> Run:
        return await runs.resume(self._database, run_id, actor=actor)

    async def cancel(self, run_id: int, *, reason: str = NO_REASON, actor: str = "local") -> Run:
        """After this returns no further task of the run starts; running attempts are told to stop."""
        return await runs.cancel(self._database, run_id, reason=reason, actor=actor)

    async def retry(self, run_id: int, *, actor: str = "local") -> Run:
        """A failed or cancelled run goes on from the tasks that did not succeed; results stay."""
        return await runs.retry(self._database, run_id, actor=actor)

    async def delete(self, run_id: int, *, actor: str = "local") -> None:
        """Remove a finished run with everything that belongs to it."""
        await runs.delete(self._database, run_id, actor=actor)


async def _drain(workers: list[Worker]) -> None:
    """All at once: one that still works would take what another gives back."""
    await asyncio.gather(*(worker.drain() for worker in workers))
