"""The embedded engine for programs without an event loop: the same methods, blocking."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from engine.errors import Conflict
from engine.executors.base import Executor, ExecutorSettings
from engine.executors.registry import ExecutorRegistry
from engine.model.run_defaults import RunDefaults
from engine.sdk.embedded import DEFAULT_URL, Engine
from engine.sdk.plugins import BindingLike
from engine.worker.options import WorkerOptions

P = ParamSpec("P")
R = TypeVar("R")


def _blocking(
    method: Callable[Concatenate[Engine, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncEngine, P], R]:
    @wraps(method)
    def call(self: SyncEngine, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._run(method(self._engine, *args, **kwargs))

    return call


class SyncEngine:
    """`with SyncEngine(url) as engine:` is `Engine`, run by an event loop in a thread of its own.

    Takes what `Engine` takes. Methods may be called from any thread but that one, where its `async def` tasks
    run.
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
        self._engine = Engine(
            url,
            workers=workers,
            concurrency=concurrency,
            queues=queues,
            executors=executors,
            functions=functions,
            services=services,
            plugins=plugins,
            plugin_bindings=plugin_bindings,
            registry=registry,
            executor_settings=executor_settings,
            options=options,
            shared=shared,
            wakes_others=wakes_others,
            run_defaults=run_defaults,
            pool_size=pool_size,
        )
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Future[None] = Future()

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise Conflict("the engine is already open")
        ready: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = Future()
        self._thread = threading.Thread(target=self._live, args=(ready,), name="engine-loop", daemon=True)
        self._thread.start()
        try:
            self._loop = ready.result()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _live(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        async def live() -> None:
            async with self._engine:
                ready.set_result(asyncio.get_running_loop())
                await asyncio.wrap_future(self._stop)

        try:
            asyncio.run(live())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    def _end(self) -> None:
        self._loop = None
        if self._thread is None:
            return
        self._stop.set_result(None)
        self._thread.join()
        self._thread = None

    def _run(self, call: Coroutine[Any, Any, R]) -> R:
        if self._loop is None:
            call.close()
            raise Conflict("the engine is not open; use it inside `with engine.SyncEngine(…) as e:`")
        if threading.current_thread() is self._thread:
            call.close()
            raise Conflict(
                "a task on the engine's own event loop cannot wait for it: make the task a plain `def`, "
                "which has a thread of its own, or await the methods of an engine.Engine"
            )
        answer = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return answer.result()
        except KeyboardInterrupt:
            answer.cancel()
            raise

    def wake(self, *queues: str) -> None:
        """As `Engine.wake`."""
        self._engine.wake(*queues)

    submit = _blocking(Engine.submit)
    submit_many = _blocking(Engine.submit_many)
    get = _blocking(Engine.get)
    list_runs = _blocking(Engine.list_runs)
    tasks = _blocking(Engine.tasks)
    events = _blocking(Engine.events)
    logs = _blocking(Engine.logs)
    wait = _blocking(Engine.wait)
    pause = _blocking(Engine.pause)
    resume = _blocking(Engine.resume)
    cancel = _blocking(Engine.cancel)
    retry = _blocking(Engine.retry)
    delete = _blocking(Engine.delete)

    save = _blocking(Engine.save)
    workflow = _blocking(Engine.workflow)
    list_workflows = _blocking(Engine.list_workflows)
    workflow_versions = _blocking(Engine.workflow_versions)
    workflow_definition = _blocking(Engine.workflow_definition)
    delete_workflow = _blocking(Engine.delete_workflow)
    enable_workflow = _blocking(Engine.enable_workflow)
    execute = _blocking(Engine.execute)
    rerun = _blocking(Engine.rerun)
    history = _blocking(Engine.history)
    instance = _blocking(Engine.instance)
    signal = _blocking(Engine.signal)
    publish = _blocking(Engine.publish)
    saga = _blocking(Engine.saga)
    retry_saga = _blocking(Engine.retry_saga)
    skip_saga = _blocking(Engine.skip_saga)
    sign_off_saga = _blocking(Engine.sign_off_saga)
    schedule = _blocking(Engine.schedule)
    get_schedule = _blocking(Engine.get_schedule)
    list_schedules = _blocking(Engine.list_schedules)
    change_schedule = _blocking(Engine.change_schedule)
    pause_schedule = _blocking(Engine.pause_schedule)
    resume_schedule = _blocking(Engine.resume_schedule)
    trigger_schedule = _blocking(Engine.trigger_schedule)
    upcoming = _blocking(Engine.upcoming)
    delete_schedule = _blocking(Engine.delete_schedule)
    list_functions = _blocking(Engine.list_functions)
    missing_functions = _blocking(Engine.missing_functions)

    bind_plugin = _blocking(Engine.bind_plugin)
    unbind_plugin = _blocking(Engine.unbind_plugin)
    plugin_bindings = _blocking(Engine.plugin_bindings)
