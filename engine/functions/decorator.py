"""`@task`: a Python function that can be a task, and is a plain function where nobody builds a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

from engine.functions.context import Context, SyncContext
from engine.functions.function import Function
from engine.model.graph import DEFAULT_QUEUE, TaskSpec
from engine.model.json import JSON
from engine.model.retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Recorder(Protocol):
    """Notes calls of tasks instead of making them; what it returns stands for the result."""

    def record(
        self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Any: ...


recorder: ContextVar[Recorder | None] = ContextVar("engine_recorder", default=None)


class Calling(Protocol[P, R_co]):
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...


class TaskFunction(Generic[P, R]):
    """A function decorated with `@task`.

    Inside a `@workflow` calling it adds a task to the graph, without the context argument. Anywhere else
    it calls the function.
    """

    def __init__(self, function: Function) -> None:
        self.function = function
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(self, name, getattr(function.call, name, None))
        self.__wrapped__ = function.call  # for inspect and its users

    @property
    def name(self) -> str:
        return self.function.name

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self._call({}, args, kwargs)
        return result

    def options(
        self,
        *,
        name: str | None = None,
        after: Any = (),
        when: Any = None,
        rule: str | None = None,
        retries: int | None = None,
        retry_delay: float | timedelta | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | timedelta | None = None,
        queue: str | None = None,
        priority: int | str | None = None,
        compensate: Undoing | tuple[Undoing, Mapping[str, Any]] | None = None,
    ) -> Calling[P, R]:
        """`load.options(name="load-eu", after=[audit])(rows)`: this one call, as a task of a workflow.

        `after` are further dependencies. `when` is the condition (CEL; `params` are this task's own) under
        which it runs at all, `rule` what must have become of its dependencies, `compensate` what undoes it if
        the run fails: a task, its name, or one of these with parameters. The rest is as for `@task`.
        """
        given = {
            "name": name,
            "after": after,
            "when": when,
            "rule": rule,
            "retries": retries,
            "retry_delay": retry_delay,
            "retry": retry,
            "timeout": timeout,
            "queue": queue,
            "priority": priority,
            "compensate": compensate,
        }
        kept = {key: value for key, value in given.items() if value is not None}
        return _Calling(self, kept)

    def spec(
        self, params: Mapping[str, JSON] | None = None, name: str | None = None, **fields: Any
    ) -> TaskSpec:
        """A task that calls it, for `engine.graph` and `ctx.add_sub_task`: see `Function.spec`."""
        return self.function.spec(params, name, **fields)

    def _call(self, options: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        building = recorder.get()
        if building is not None:
            return building.record(self.function, args, kwargs, options)
        return self.function.call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.function.name}: {self.function.origin}>"


Undoing = TaskFunction[..., Any] | str


@dataclass(frozen=True, slots=True)
class _Calling(Generic[P, R]):
    task: TaskFunction[P, R]
    options: Mapping[str, Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.task._call(self.options, args, kwargs)
        return result


class _Decorator(Protocol):
    """What `@task(…)` returns; knows calls without the context, where that comes first."""

    @overload
    def __call__(self, call: Callable[Concatenate[Context, P], R], /) -> TaskFunction[P, R]: ...
    @overload
    def __call__(self, call: Callable[Concatenate[SyncContext, P], R], /) -> TaskFunction[P, R]: ...
    @overload
    def __call__(self, call: Callable[P, R], /) -> TaskFunction[P, R]: ...


@overload
def task(call: Callable[Concatenate[Context, P], R], /) -> TaskFunction[P, R]: ...
@overload
def task(call: Callable[Concatenate[SyncContext, P], R], /) -> TaskFunction[P, R]: ...
@overload
def task(call: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    run_in: str | None = None,
    retries: int = 0,
    retry_delay: float | timedelta | None = None,
    retry: RetryPolicy | None = None,
    timeout: float | timedelta | None = None,
    queue: str = DEFAULT_QUEUE,
    priority: int | str = 0,
    required: Iterable[str] = (),
    description: str | None = None,
) -> _Decorator: ...
def task(call: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make a function a task, bare or with keywords. It still has to be registered by its `name`.

    `async def` runs on the worker's event loop; anything else in a thread, or with `run_in="process"` in a
    process of its own, which can be killed. `retries` are tries after the first, `retry_delay` seconds
    apart (not given: 1, 2, 4 … seconds), or as `retry` says. `timeout` holds per attempt, in seconds.
    `required` parameters may also come from a dependency's result. Raises `ConfigError`.
    """
    if call is not None:
        return TaskFunction[Any, Any](Function.of(call))
    return lambda call: TaskFunction[Any, Any](Function.of(call, **given))
