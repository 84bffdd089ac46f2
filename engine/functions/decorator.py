"""`@task`: a Python function that can be a task, and is a plain function where nobody builds a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from engine.errors import ConfigError
from engine.functions.context import Context, SyncContext
from engine.functions.function import Function, check_words
from engine.model.graph import Rule, TaskSpec
from engine.model.json import JSON
from engine.model.retry import RetryPolicy
from engine.model.workflows import Callback

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

    def options(self, **given: Unpack[CallOptions]) -> Calling[P, R]:
        """`load.options(name="load-eu", after=[audit])(rows)`: this one call, as a task of a workflow.

        Raises `ConfigError` for an option that is none; the call itself raises `GraphError` for wrong values.
        """
        for field, word in (("condition", "when"), ("depends_on", "after")):
            if field in given:
                raise ConfigError(f'task "{self.name}": there is no option {field!r}; say {word!r}')
        check_words(f'task "{self.name}"', given, CallOptions.__annotations__)
        return _Calling(self, {key: value for key, value in given.items() if value is not None})

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


Named = TaskFunction[..., Any] | str  # a task, or its name


class CallOptions(TypedDict, total=False):
    """What a call can say of its task, besides the arguments. What it does not say is as `@task` says."""

    name: str | None
    description: str | None
    after: Any  # results of calls or names of tasks: further dependencies
    when: Any  # CEL over `params`, the task's own, and results; the task is skipped unless it holds
    rule: Rule | str | None  # what must have become of its dependencies
    retries: int | None
    retry_delay: float | timedelta | None
    retry: RetryPolicy | None
    timeout: float | timedelta | None
    queue: str | None
    priority: int | str | None
    limits: Mapping[str, int] | None
    required: Sequence[str] | None  # parameters that may come from a dependency's result
    result_mapping: Mapping[str, str] | None  # parameter -> field of a dependency's result
    compensate: Named | tuple[Named, Mapping[str, Any]] | None  # undoes it if the run fails
    callbacks: Sequence[Callback | tuple[str, Named]] | None  # in order; `("failed", tell)`
    is_template: bool | None  # creates tasks while it runs


@dataclass(frozen=True, slots=True)
class _Calling(Generic[P, R]):
    task: TaskFunction[P, R]
    options: Mapping[str, Any]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.task._call(self.options, args, kwargs)
        return result


class TaskOptions(TypedDict, total=False):
    """How a function is performed as a task, see `task`."""

    name: str | None
    run_in: str | None
    retries: int
    retry_delay: float | timedelta | None
    retry: RetryPolicy | None
    timeout: float | timedelta | None
    queue: str
    priority: int | str
    limits: Mapping[str, int] | None
    required: Iterable[str]
    description: str | None


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
def task(**given: Unpack[TaskOptions]) -> _Decorator: ...
def task(call: Callable[..., Any] | None = None, /, **given: Any) -> Any:
    """Make a function a task, bare or with keywords. It still has to be registered by its `name`.

    `async def` runs on the worker's event loop; anything else in a thread, or with `run_in="process"` in a
    process of its own, which can be killed. `retries` are tries after the first, `retry_delay` seconds
    apart (not given: 1, 2, 4 … seconds), or as `retry` says. `timeout` holds per attempt, in seconds.
    `limits={"gpu": 2}`: at most so many tasks that name the key run at once.
    `required` parameters may also come from a dependency's result. Raises `ConfigError`.
    """
    if call is not None:
        return TaskFunction[Any, Any](Function.of(call))
    return lambda call: TaskFunction[Any, Any](Function.of(call, **given))
