"""Streaming tasks (kind `realtime`): their functions, called with the items of a source as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, ClassVar

from engine.errors import EngineError, Fault, InvalidInput, LeaseLost, UnknownFunction
from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.function import FunctionExecutor
from engine.executors.stream_sources import SOURCE, Parts, TaskNetwork, check_source, is_source, source_of
from engine.functions.function import Function, How
from engine.functions.loading import load_functions
from engine.functions.ports import Ports
from engine.functions.registry import FunctionRegistry
from engine.model import shapes
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Released, Succeeded
from engine.model.realtime import RealtimeTask
from engine.model.records import Lease
from engine.model.workflow_graph import REALTIME
from engine.model.workflow_rules import check_task
from engine.model.workflows import FUNCTION
from engine.streams.handling import Handling
from engine.streams.loop import Stream
from engine.streams.ports import CallFailed, StreamStore
from engine.streams.published import Published
from engine.streams.reader import SourceLost
from engine.streams.sources import Source
from engine.streams.subscribers import Subscribers
from engine.streams.telling import Names, Teller


def from_settings(settings: ExecutorSettings) -> RealtimeExecutor | None:
    """The entry point: with the functions that the settings name, None if they name none."""
    if not settings.functions:
        return None
    functions = load_functions(settings.functions)
    return RealtimeExecutor(functions, settings=settings, threads=settings.threads, is_alone=False)


class RealtimeExecutor:
    """Params are a `RealtimeTask` as `model.workflow_graph` describes it: all but its name and its retries.

    An attempt lasts as long as its source. When its worker stops it gives the task back at once, and the
    next attempt goes on from the last batch that was committed.
    """

    kind: ClassVar[str] = REALTIME
    category: ClassVar[str] = "python"

    def __init__(
        self,
        registry: FunctionRegistry,
        *,
        services: Mapping[str, Any] | None = None,
        settings: ExecutorSettings | None = None,
        threads: int = 10,
        is_alone: bool = True,
    ) -> None:
        """As for `FunctionExecutor`."""
        self._registry = registry
        self._services = {} if services is None else services
        self._settings = settings or ExecutorSettings()
        self._network = TaskNetwork(self._settings)
        self._is_alone = is_alone
        self._performer = FunctionExecutor(
            registry,
            services=services,
            settings=self._settings,
            threads=threads,
            ports=_ports,
            is_alone=is_alone,
        )

    @property
    def overdue(self) -> int:
        """Threads that still do what nobody waits for."""
        return self._performer.overdue

    async def close(self) -> None:
        """End idle processes and threads."""
        await self._performer.close()

    def check(self, params: JSON) -> None:
        try:
            task = described(_name_in(params), params)
            if self._is_alone or not self._registry.missing(_names(task)):
                _check_params(task, [self._registry.get(name) for name in _names(task)])
                _check_functions(task, self._registry)
                check_source(task, self._registry)
        except InvalidInput as error:
            raise ValueError(str(error)) from None

    async def execute(self, context: TaskContext, params: JSON) -> Outcome:
        try:
            task = described(context.lease.name, params)
            store = context.stream()
            calls = _Calls(self._performer, self._registry, context, task)
            parts = Parts(self._network, self._registry, self._services, calls.iterate, calls, store)
            _check_functions(task, self._registry)
            source = source_of(task, parts)
        except UnknownFunction as error:
            return await self._performer.unknown(context, error, _names(task))
        except EngineError as error:
            return Failed(str(error), code="invalid_params", is_permanent=True)
        if source is None:
            return await self._call(context, task)
        return await self._perform(context, self._stream(context, task, source, store, calls))

    async def _call(self, context: TaskContext, task: RealtimeTask) -> Outcome:
        """A one-shot task without a source is a task like any that calls a function."""
        if task.function is None:
            message = f"task {task.name!r} has no source, and no function to be called"
            return Failed(message, code="invalid_params", is_permanent=True)
        performer = context.executor_of(FUNCTION)
        return await performer.execute(context, {"function": task.function, "params": task.params or {}})

    def _stream(
        self, context: TaskContext, task: RealtimeTask, source: Source, store: StreamStore, calls: _Calls
    ) -> Stream:
        def log(line: str) -> None:
            context.log("log", f"{line}\n")

        lease = context.lease
        are_events = isinstance(source, Published)
        subscribers = Subscribers(task.subscriptions, calls, store.holds, log)
        # Data that is published to the task is delivered once, with its batch, and not as it comes as well.
        others = [each for each in task.subscriptions if not each.event.startswith("data.")]
        told = Subscribers(others, calls, store.holds, log) if are_events else subscribers
        names = Names(lease.task_id, lease.name, lease.run_id, lease.attempt)
        handling = Handling(
            handler=_handler(task, self._registry),
            error_handler=task.error_handler,
            takes_single=task.batch_size == 1,
            are_events=are_events,
            retry=lease.retry,
            subscribers=subscribers,
            call=calls,
            log=log,
        )
        teller = Teller(names, source, store, told)
        return Stream(task, source, store, handling, teller, context.report, log)

    async def _perform(self, context: TaskContext, stream: Stream) -> Outcome:
        running = asyncio.create_task(stream.run(), name=f"stream-{context.lease.task_id}")
        draining = asyncio.create_task(context.draining.wait())
        try:
            await asyncio.wait({running, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self._stop(stream, running)
            return await _outcome(running, stream, context.lease)
        except asyncio.CancelledError:
            if context.cancelled.is_set():  # not at a timeout: nobody waits for that to end
                await self._stop(stream, running)
            raise
        finally:
            draining.cancel()
            running.cancel()
            await asyncio.gather(running, draining, return_exceptions=True)

    async def _stop(self, stream: Stream, running: asyncio.Task[Any]) -> None:
        """Let it deal with what it has read, for a while."""
        stream.stop()
        await asyncio.wait({running}, timeout=self._settings.kill_grace_seconds)


async def _outcome(running: asyncio.Task[Any], stream: Stream, lease: Lease) -> Outcome:
    """How a stream has ended; one that goes on is given back.

    Losing its source counts as a failure unless this attempt has dealt with something: over months they
    would add up to more than any number of retries.
    """
    if not running.done():
        return Released()
    try:
        done = await running
    except SourceLost as error:
        if stream.has_progressed and lease.retry.max_attempts > 1:
            return Released(str(error), "source_lost", lease.retry.delay_ms(1))
        return Failed(str(error), code="source_lost", retryable=True)
    except LeaseLost:
        raise
    except EngineError as error:
        return Failed(str(error), code=error.code, is_permanent=True)
    return Released() if done.was_stopped else Succeeded(done.document)


def described(name: str, params: JSON) -> RealtimeTask:
    """The task that `params` describe. Raises `InvalidInput` that tells all that is wrong."""
    if not isinstance(params, dict):
        raise InvalidInput(f"params: expected an object, got {shapes.kind_of(params)}")
    faults: list[Fault] = []
    task = shapes.from_json(RealtimeTask, {**params, "name": name}, faults)
    if task is None:
        raise InvalidInput("; ".join(map(str, faults)))
    check_task(task)
    return task


def _name_in(params: JSON) -> str:
    """What errors call the task: a workflow's has a name before it is performed."""
    name = params.get("name") if isinstance(params, dict) else None
    return name if isinstance(name, str) else "task"


# --- its functions


def _names(task: RealtimeTask) -> list[str]:
    """Of the functions that it calls. A collector may be something else."""
    named = (task.function, task.data_handler, task.error_handler)
    return [name for name in (*named, *(each.function for each in task.subscriptions)) if name is not None]


def _handler(task: RealtimeTask, registry: FunctionRegistry) -> str | None:
    """The function that gets the items."""
    if task.data_handler is not None or task.function is None:
        return task.data_handler
    return None if is_source(task, registry.get(task.function)) else task.function


def _check_functions(task: RealtimeTask, registry: FunctionRegistry) -> None:
    """Raises `UnknownFunction`, or `InvalidInput` if one yields that is no source."""
    for name in _names(task):
        function = registry.get(name)
        if function.how is How.STREAM and not (name == task.function and is_source(task, function)):
            message = f'function "{name}" yields items: it can only be the source of task {task.name!r}'
            raise InvalidInput(message)


def _check_params(task: RealtimeTask, functions: Sequence[Function]) -> None:
    """Each parameter has to be taken by one of the functions; a collector's are not known here."""
    if task.collector is not None or any(function.signature.takes_any for function in functions):
        return
    taken = {SOURCE, *(name for each in functions for name in (*each.signature.names, *each.required))}
    if unknown := [name for name in task.params or {} if name not in taken]:
        known = ", ".join(sorted(taken))
        raise InvalidInput(f"params.{unknown[0]}: no function of the task takes it (taken: {known})")


class _Calls:
    """Calls functions of one attempt: with the task's parameters, and what else it is given, as far as each
    takes them."""

    def __init__(
        self,
        performer: FunctionExecutor,
        registry: FunctionRegistry,
        context: TaskContext,
        task: RealtimeTask,
    ) -> None:
        self._performer = performer
        self._registry = registry
        self._context = context
        self._params = {name: value for name, value in (task.params or {}).items() if name != SOURCE}

    async def __call__(self, name: str, given: Mapping[str, JSON]) -> JSON:
        try:
            request = self._request(name, given)
        except UnknownFunction as error:
            raise CallFailed(str(error)) from None
        match await self._performer.execute(self._context, request):
            case Succeeded(result=result):
                return result
            case Failed() as failed:
                raise CallFailed(failed.message, is_permanent=failed.is_permanent, delay_ms=failed.delay_ms)
            case outcome:
                raise CallFailed(f"function {name} ended as {type(outcome).__name__}")

    def iterate(self, name: str, given: Mapping[str, JSON]) -> AsyncGenerator[Any, None]:
        return self._performer.iterate(self._context, self._request(name, given))

    def _request(self, name: str, given: Mapping[str, JSON]) -> JSON:
        function = self._registry.get(name)
        offered = {**self._params, **given}
        return {"function": name, "params": {key: offered[key] for key in offered if _takes(function, key)}}


def _takes(function: Function, name: str) -> bool:
    signature = function.signature
    return signature.takes_any or name in signature.names or name in function.required


def _ports(context: TaskContext) -> Ports:
    """Without steps, sub-tasks and progress: a function that is called without end cannot have them."""
    client = context.lease.client
    workflow_id = client.get("workflow_id") if isinstance(client, dict) else None
    return Ports(upstream=context.upstream, workflow_id=workflow_id, publish=context.publish)
