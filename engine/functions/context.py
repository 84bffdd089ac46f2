"""What a function can ask and tell while it runs. `Context` is for `async def`, `SyncContext` blocks."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

from engine.errors import AttemptInterrupted, Conflict, NotFound, PermanentError
from engine.functions.given import Given
from engine.functions.log_handler import LogHandler
from engine.functions.results import to_json
from engine.model.graph import TaskSpec
from engine.model.json import JSON
from engine.model.outcomes import Outcome

T = TypeVar("T")
Write = Callable[[str, str], None]  # (stream, text)
Ask = Callable[..., Any]  # (port, *arguments): see `Ports.ask`

MAX_SECONDS = 1_000 * 365 * 86_400  # of a sleep or a wait: databases store times up to the year 9999


@dataclass(frozen=True, slots=True)
class Facts:
    """Which attempt of what this is. `idempotency_key` is the same for every attempt of the task.

    `offered` are names of parameters that become arguments only of functions that have them.
    """

    task_id: int
    task_name: str
    run_id: int
    attempt: int
    idempotency_key: str
    workflow_id: str | None = None
    offered: frozenset[str] = frozenset()

    @property
    def workflow_instance_id(self) -> str:
        """The run, in the words of the workflow interface."""
        return str(self.run_id)


class Stopping(Protocol):
    """Whether the attempt was told to stop."""

    def is_set(self) -> bool: ...


class BaseContext(Given):
    """What both faces have in common. None of it waits for anything."""

    def __init__(
        self,
        facts: Facts,
        params: Mapping[str, JSON],
        *,
        write: Write,
        stopping: Stopping,
        upstream: dict[str, JSON] | None = None,
        services: Mapping[str, Any] | None = None,
    ) -> None:
        """Without `upstream`, asking for results of other tasks raises `Conflict`."""
        self.facts = facts
        self.task_id = facts.task_id
        self.task_name = facts.task_name
        self.run_id = facts.run_id
        self.workflow_id = facts.workflow_id
        self.workflow_instance_id = facts.workflow_instance_id
        self.attempt = facts.attempt
        self.idempotency_key = facts.idempotency_key
        self.params = dict(params)
        self.write = write
        self._stopping = stopping
        self._upstream = upstream
        self._services = {} if services is None else services
        self._logger: logging.Logger | None = None
        self._sleeps = 0
        self._taken: dict[tuple[str, str], object] = {}  # names of steps and sleeps of this attempt

    def get_all_upstream_results(self) -> dict[str, JSON]:
        if self._upstream is None:
            raise Conflict("results of other tasks are not available to functions here")
        return copy(self._upstream)

    # --- services

    def get_dependency(self, key: str) -> Any:
        """The service that was registered under `key`. Raises `NotFound`."""
        if key not in self._services:
            raise NotFound(f"no service {key!r} (registered: {', '.join(self._services) or 'none'})")
        return self._services[key]

    def has_dependency(self, key: str) -> bool:
        return key in self._services

    # --- the attempt's log

    def log(self, message: object) -> None:
        """Add a line to the attempt's log."""
        self.write("log", f"{message}\n")

    @property
    def logger(self) -> logging.Logger:
        """A logger whose records, of every level, go to the attempt's log and nowhere else."""
        if self._logger is None:
            self._logger = logging.Logger(self.task_name, logging.DEBUG)
            self._logger.addHandler(LogHandler(self.write))
        return self._logger

    # --- being stopped

    @property
    def cancelled(self) -> bool:
        """The attempt was cancelled, has timed out, or its worker stops: end soon, nobody waits for long."""
        return self._stopping.is_set()

    def raise_if_cancelled(self) -> None:
        """Raises `AttemptInterrupted`. To be called now and then by functions that run for long."""
        if self.cancelled:
            raise AttemptInterrupted("the attempt was told to stop")

    def _sleep_name(self, name: str | None) -> str:
        """Sleeps without a name are told apart by their order, which has to be the same at each attempt."""
        self._sleeps += name is None
        return name or f"sleep-{self._sleeps}"

    @contextmanager
    def _once(self, what: str, name: str) -> Iterator[None]:
        """Take a name for this attempt. It is free again if what it stands for is not done.

        Raises `PermanentError`: a second one would get what the first one has left.
        """
        key, token = (what, name), object()
        if self._taken.setdefault(key, token) is not token:  # of threads, one is the first
            raise PermanentError(
                f"{what} {name!r} was taken already in this attempt: give each its own name, "
                f"e.g. f{f'{name} {{i}}'!r}"
            )
        try:
            yield
        except BaseException:
            del self._taken[key]
            raise


class AwaitableStopping(Stopping, Protocol):
    async def wait(self) -> None: ...


class Context(BaseContext):
    """The context of an `async def`. When the attempt is stopped, `await` raises `CancelledError` there."""

    def __init__(
        self, facts: Facts, params: Mapping[str, JSON], *, stopping: AwaitableStopping, ask: Ask, **given: Any
    ) -> None:
        super().__init__(facts, params, stopping=stopping, **given)
        self._wait = stopping.wait
        self._ask: Callable[..., Awaitable[Any]] = ask

    async def done(self) -> None:
        """Return when the attempt is told to stop."""
        await self._wait()

    async def progress(self, document: JSON) -> None:
        """Show `document` as the task's progress, in place of what it showed before."""
        await self._ask("report", to_json(document, "the progress"))

    async def add_sub_tasks(self, tasks: Sequence[TaskSpec]) -> list[int]:
        """Add tasks to this run, all or none, and return their ids; names must be new to the run.

        Tasks that wait for this one wait for them as well. Repeated by a later attempt, it adds nothing.
        """
        ids: list[int] = await self._ask("spawn", list(tasks)) if tasks else []
        return ids

    async def add_sub_task(self, task: TaskSpec) -> int:
        return (await self.add_sub_tasks([task]))[0]

    async def step(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> JSON:
        """What `call` returns, as JSON. Once it has, no later attempt calls it again.

        `call` may be `async`. If we die after it has returned and before that is saved, it is called again.
        Each step of an attempt has its own name; one that has raised may be tried again.
        """
        with self._once("step", name):
            saved = await self._ask("step_result", name)
            if saved is not None:
                return saved.result
            result = call(*args, **kwargs)
            if inspect.isawaitable(result):
                result = await result
            result = to_json(result, f"the result of step {name!r}")
            await self._ask("save_step", name, result)
            return result

    async def sleep(self, seconds: float | timedelta, name: str | None = None) -> None:
        """Sleep once: a later attempt sleeps only for what is left. Names are as those of steps."""
        name, left = self._sleep_name(name), _seconds(seconds)
        with self._once("sleep", name):
            await self._ask("sleep_until", name, left)

    async def wait_for_signal(self, name: str, timeout: float | timedelta | None = None) -> JSON:
        """The payload of the next signal. Raises `TimeoutError` after `timeout` seconds."""
        return await self._ask("next_signal", name, None if timeout is None else _seconds(timeout))

    async def publish(self, event_type: str, payload: JSON = None) -> list[str]:
        """Give an event to the event-driven tasks of this run that take its type; returns their names.

        It is stored until they have dealt with it. Waits while one has no room for it, unless that one drops
        what it has no room for. Repeated by a later attempt, it is a new event. Raises `Conflict` if no task
        takes it.
        """
        names: list[str] = await self._ask("publish", event_type, to_json(payload, "the payload"))
        return names

    async def perform(self, kind: str, params: JSON) -> Outcome:
        """Have this worker's executor of another kind do its work, as part of this attempt.

        What is returned may be returned by the function: it says how the attempt ended.
        """
        outcome: Outcome = await self._ask("perform", kind, params)
        return outcome


class SyncContext(BaseContext):
    """The context of a plain `def`, in a thread or a process. Every call may block; any thread may call."""

    def __init__(
        self, facts: Facts, params: Mapping[str, JSON], *, stopping: threading.Event, ask: Ask, **given: Any
    ) -> None:
        super().__init__(facts, params, stopping=stopping, **given)
        self._wait = stopping.wait
        self._ask = ask

    def done(self, timeout: float | None = None) -> bool:
        """Wait until the attempt is told to stop, at most `timeout` seconds; whether it was."""
        return self._wait(timeout)

    def progress(self, document: JSON) -> None:
        """As `Context.progress`."""
        self._ask("report", to_json(document, "the progress"))

    def add_sub_tasks(self, tasks: Sequence[TaskSpec]) -> list[int]:
        """As `Context.add_sub_tasks`."""
        return cast(list[int], self._ask("spawn", list(tasks))) if tasks else []

    def add_sub_task(self, task: TaskSpec) -> int:
        return self.add_sub_tasks([task])[0]

    def step(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> JSON:
        """As `Context.step`."""
        with self._once("step", name):
            saved = self._ask("step_result", name)
            if saved is not None:
                return saved.result
            result = to_json(call(*args, **kwargs), f"the result of step {name!r}")
            self._ask("save_step", name, result)
            return result

    def sleep(self, seconds: float | timedelta, name: str | None = None) -> None:
        """As `Context.sleep`."""
        name, left = self._sleep_name(name), _seconds(seconds)
        with self._once("sleep", name):
            self._ask("sleep_until", name, left)

    def wait_for_signal(self, name: str, timeout: float | timedelta | None = None) -> JSON:
        """As `Context.wait_for_signal`."""
        return self._ask("next_signal", name, None if timeout is None else _seconds(timeout))

    def publish(self, event_type: str, payload: JSON = None) -> list[str]:
        """As `Context.publish`."""
        return cast(list[str], self._ask("publish", event_type, to_json(payload, "the payload")))


def _seconds(value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not -MAX_SECONDS <= seconds <= MAX_SECONDS:  # nan as well
        raise PermanentError(f"a sleep or a wait is at most {MAX_SECONDS} seconds long, got {seconds:g}")
    return seconds
