"""Calls registered Python functions: on the event loop, in a thread, or in a process of their own."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Container, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from functools import partial
from typing import Any, ClassVar, NamedTuple

from engine.errors import AttemptInterrupted, InvalidArguments, InvalidInput, UnknownFunction
from engine.executors.base import ExecutorSettings, TaskContext, attempt_environment
from engine.executors.child import MARK
from engine.executors.function_child import Request, refuse_while_importing_main
from engine.executors.function_process import (
    FunctionProcess,
    Processes,
    ProcessGone,
    crashed,
    picklable,
    program,
)
from engine.executors.threads import Threads
from engine.functions.context import Context, Facts, SyncContext
from engine.functions.function import Function, How
from engine.functions.loading import load_functions
from engine.functions.perform import failed, perform, perform_async
from engine.functions.ports import WAITING, Ports
from engine.functions.registry import FunctionRegistry
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, elsewhere
from engine.model.placeholders import is_open
from engine.model.workflows import FUNCTION

_STARTS = 3  # of a process that ends before it has begun the call


def from_settings(settings: ExecutorSettings) -> FunctionExecutor | None:
    """The entry point: the functions that the settings name, None if they name none."""
    if not settings.functions:
        return None
    functions = load_functions(settings.functions)
    return FunctionExecutor(functions, settings=settings, threads=settings.threads, is_alone=False)


def basic_ports(context: TaskContext) -> Ports:
    """What an attempt has by itself."""
    client = context.lease.client
    workflow_id = client.get("workflow_id") if isinstance(client, dict) else None
    return Ports(
        context.add_sub_tasks,
        context.report,
        context.upstream,
        context.steps(),
        workflow_id,
        partial(_perform_kind, context),
        context.publish,
    )


async def _perform_kind(context: TaskContext, kind: str, params: JSON) -> Outcome:
    return await context.executor_of(kind).execute(context, params)


class FunctionExecutor:
    """Params are `{"function": name, "params": {…}}`, and `offered` for arguments that it may not have.

    `threads` is the concurrency of all workers that use it, so that no call waits for a thread. Calls do wait
    for one of `processes`, with their timeouts running. `is_alone`: nobody else performs functions, so a name
    that is not in `registry` is a mistake.

    At a timeout the attempt ends at once. A call that is cancelled has `settings.kill_grace_seconds` to end
    by itself. Then its process is killed; its thread is left to end when it will, see `overdue`.
    """

    kind: ClassVar[str] = FUNCTION
    category: ClassVar[str] = "python"

    def __init__(
        self,
        registry: FunctionRegistry,
        *,
        services: Mapping[str, Any] | None = None,
        settings: ExecutorSettings | None = None,
        threads: int = 10,
        processes: int | None = None,
        ports: Callable[[TaskContext], Ports] = basic_ports,
        is_alone: bool = True,
    ) -> None:
        """Raises `ConfigError` in a process that only imports the program for its functions."""
        refuse_while_importing_main()
        self._registry = registry
        self._services = {} if services is None else services
        self._settings = settings or ExecutorSettings()
        self._threads = Threads(threads)
        self._processes = Processes(processes or os.cpu_count() or 1)
        self._ports = ports
        self._is_alone = is_alone

    def describe(self) -> list[dict[str, JSON]]:
        """What there is to keep and show of each function."""
        return self._registry.describe()

    @property
    def overdue(self) -> int:
        """Threads whose attempts are over. A worker that counts them as running keeps to its concurrency."""
        return self._threads.overdue

    async def close(self) -> None:
        """End idle processes and threads. Not needed when the program ends: they end with it."""
        self._threads.close()
        await self._processes.close()

    def schema(self) -> JSON:
        return {
            "type": "object",
            "properties": {
                "function": {"type": "string", "description": "the name it is registered under"},
                "params": {"type": "object", "description": "its arguments by name"},
                "offered": {"type": "object", "description": "likewise, of those that it has"},
            },
            "required": ["function"],
        }

    def check(self, params: JSON) -> None:
        """Values that hold references to results are not looked at."""
        try:
            call = _parse(params)
            if self._is_alone or call.name in self._registry:
                self._registry.get(call.name).check(call.given, is_open, call.offered)
        except InvalidInput as error:
            raise ValueError(str(error)) from None

    async def execute(self, context: TaskContext, params: JSON) -> Outcome:
        try:
            asked = _parse(params)
            function = self._registry.get(asked.name)
            ports = self._ports(context)
            upstream = await self._upstream(function, asked.given, ports)
            given = function.complete(asked.given, upstream or {})
            facts = _facts(context, ports, asked)
        except UnknownFunction as error:
            return await self.unknown(context, error)
        except Exception as error:
            return failed(error, context.log)
        match function.how:
            case How.ASYNC:
                given_to = self._given(context, upstream)
                call = Context(facts, given, stopping=context.cancelled, ask=ports.ask, **given_to)
                return await perform_async(function, call)
            case How.THREAD:
                return await self._in_thread(function, facts, given, context, ports, upstream)
            case How.PROCESS:
                return await self._in_process(function, facts, given, context, ports, upstream)
            case How.STREAM:
                message = f'function "{asked.name}" yields: it can only be the source of a streaming task'
                return Failed(message, code="invalid_params", is_permanent=True)

    async def unknown(
        self, context: TaskContext, error: UnknownFunction, names: Collection[str] = ()
    ) -> Outcome:
        """What becomes of a task whose function is not here: it is left to somebody who has that, and all
        `names` that it needs besides."""
        if not self._is_alone and await context.are_functions_elsewhere({error.name, *names}):
            return elsewhere(await context.given_back(error.code), str(error), error.code)
        return failed(error, context.log)

    async def iterate(self, context: TaskContext, params: JSON) -> AsyncGenerator[Any, None]:
        """What a function that yields (`How.STREAM`) yields. Raises what it raises, and `InvalidInput`."""
        asked = _parse(params)
        function = self._registry.get(asked.name)
        ports = self._ports(context)
        upstream = await self._upstream(function, asked.given, ports)
        given = function.complete(asked.given, upstream or {})
        facts, given_to = _facts(context, ports, asked), self._given(context, upstream)
        call = Context(facts, given, stopping=context.cancelled, ask=ports.ask, **given_to)
        async with aclosing(function.call(**function.arguments(call))) as items:
            async for item in items:
                yield item

    async def _upstream(
        self, function: Function, params: Mapping[str, JSON], ports: Ports
    ) -> dict[str, JSON] | None:
        if ports.upstream is None or not function.needs_upstream(params):
            return None
        return await ports.upstream()

    def _given(self, context: TaskContext, upstream: dict[str, JSON] | None) -> dict[str, Any]:
        return {"write": context.log, "upstream": upstream, "services": self._services}

    # --- threads

    async def _in_thread(
        self,
        function: Function,
        facts: Facts,
        params: Mapping[str, JSON],
        context: TaskContext,
        ports: Ports,
        upstream: dict[str, JSON] | None,
    ) -> Outcome:
        stopping, ask = threading.Event(), _Hop(ports)
        given = self._given(context, upstream)
        call = SyncContext(facts, params, stopping=stopping, ask=ask, **given)
        # What is printed and logged is captured by a context variable, which threads do not inherit.
        work = partial(contextvars.copy_context().run, perform, function, call)
        future = self._threads.start(work)
        ended: asyncio.Future[Outcome] = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            stopping.set()
            ask.interrupt(WAITING)
            if context.cancelled.is_set():
                await asyncio.wait({ended}, timeout=self._settings.kill_grace_seconds)
            if ended.done():
                return ended.result()
            raise
        finally:
            ask.close()
            if not ended.done():
                self._threads.give_up(future)
                ended.cancel()

    # --- processes

    async def _in_process(
        self,
        function: Function,
        facts: Facts,
        params: Mapping[str, JSON],
        context: TaskContext,
        ports: Ports,
        upstream: dict[str, JSON] | None,
    ) -> Outcome:
        request = Request(
            module=function.call.__module__,
            qualname=function.call.__qualname__,
            main=program(),
            facts=facts,
            params=params,
            upstream=upstream,
            services=tuple(self._services),
            environment=attempt_environment(context.lease),
        )
        code = 0
        for _ in range(_STARTS):
            async with self._processes.lend(str(context.lease.session_id)) as process:
                try:
                    return await self._perform(process, function, request, context, ports)
                except ProcessGone as gone:
                    code = await process.kill(request.environment[MARK])
                    if gone.has_begun:
                        break
        return crashed(function.name, code)

    async def _perform(
        self,
        process: FunctionProcess,
        function: Function,
        request: Request,
        context: TaskContext,
        ports: Ports,
    ) -> Outcome:
        async def ask(port: str, *arguments: Any) -> Any:
            if port == "service":
                return picklable(self._services[arguments[0]], arguments[0])
            return await ports.ask(port, *arguments)

        limit = self._settings.limits.output_bytes
        ended = asyncio.create_task(process.perform(request, context.log, ask, limit))
        ended.add_done_callback(_look)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            try:
                if context.cancelled.is_set() and function.takes_context:  # otherwise it cannot notice
                    process.stop()
                    await asyncio.wait({ended}, timeout=self._settings.kill_grace_seconds)
                if ended.done() and ended.exception() is None:
                    return ended.result()
                raise
            except asyncio.CancelledError:  # also a second one
                ended.cancel()
                await process.kill(request.environment[MARK])
                raise


class _Hop:
    """Calls a port from a thread: on the loop, while the thread waits. Not after the attempt is over."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        self._calls: dict[Future[Any], str] = {}
        self._noting = threading.Lock()  # a call that is under way is among `_calls`

    def __call__(self, port: str, *arguments: Any) -> Any:
        loop = self._loop
        if loop is None:
            raise AttemptInterrupted("the attempt is over")
        with self._noting:
            call = asyncio.run_coroutine_threadsafe(self._ports.ask(port, *arguments), loop)
            self._calls[call] = port
        if self._loop is None:  # it ended meanwhile, and has not seen this call
            call.cancel()
        try:
            return call.result()
        except CancelledError:
            raise AttemptInterrupted("the attempt was told to stop") from None
        finally:
            del self._calls[call]

    def interrupt(self, ports: Container[str]) -> None:
        """End the calls of these that are under way."""
        with self._noting:
            under_way = list(self._calls.items())
        for call, port in under_way:
            if port in ports:
                call.cancel()

    def close(self) -> None:
        self._loop = None
        self.interrupt(set(self._calls.values()))


def _look(ended: asyncio.Task[Outcome]) -> None:
    """So that asyncio does not report an error as forgotten."""
    if not ended.cancelled():
        ended.exception()


class _Asked(NamedTuple):
    """`offered` are values for those arguments that the function has, while `params` have to fit."""

    name: str
    params: Mapping[str, JSON]
    offered: Mapping[str, JSON]

    @property
    def given(self) -> Mapping[str, JSON]:
        return {**self.params, **self.offered}


def _parse(params: JSON) -> _Asked:
    """Raises `InvalidArguments`."""
    if not isinstance(params, dict) or not isinstance(params.get("function"), str):
        raise _wrong("function", "expected the name of a registered function")
    for key in ("params", "offered"):
        if not isinstance(params.get(key), dict | None):
            raise _wrong(key, f"expected a JSON object, got {type(params[key]).__name__}")
    return _Asked(params["function"], params.get("params") or {}, params.get("offered") or {})


def _wrong(path: str, message: str) -> InvalidArguments:
    return InvalidArguments(f"invalid params: {path}: {message}", ({"path": path, "message": message},))


def _facts(context: TaskContext, ports: Ports, asked: _Asked) -> Facts:
    lease = context.lease
    return Facts(
        lease.task_id,
        lease.name,
        lease.run_id,
        lease.attempt,
        lease.idempotency_key,
        ports.workflow_id,
        frozenset(asked.offered),
    )
