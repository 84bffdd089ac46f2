"""`@workflow`: a Python function that builds a graph by calling tasks.

Calls return handles. A handle given to another call, whole or a field of it, makes the dependency and stands
for the result as a placeholder (`engine.model.placeholders`).
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import (
    Any,
    Generic,
    ParamSpec,
    TypedDict,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from engine.errors import ConfigError, GraphError
from engine.functions.decorator import recorder
from engine.functions.function import check_words
from engine.functions.results import to_json
from engine.model.parameters import Param, ParamType
from engine.model.realtime import RealtimeTask
from engine.model.workflows import Mode, Workflow, WorkflowTask
from engine.sdk.handles import Handle, step_text
from engine.sdk.recording import Builder

P = ParamSpec("P")


class WorkflowOptions(TypedDict, total=False):
    """What a workflow says of itself besides its tasks: fields of `engine.model.workflows.Workflow`."""

    name: str | None
    description: str | None
    params: Mapping[str, Param | Any] | None  # in place of what the arguments declare, and besides
    mode: Mode | str | None
    cron: str | None
    timezone: str | None
    max_concurrent_task: int | None
    sub_task_error_tolerance: float | None
    transactional: bool | None
    labels: Mapping[str, str] | None


class WorkflowFunction(Generic[P]):
    """A function decorated with `@workflow`.

    Calling it with its arguments builds the workflow for just these: it may then use them like any values.
    `definition()` builds the one to save: its arguments are parameters of each run. Inside another workflow a
    call adds its tasks to that one.
    """

    def __init__(self, function: Callable[P, Any], options: WorkflowOptions) -> None:
        """Raises `ConfigError` for an option that is none."""
        given: dict[str, Any] = {word: value for word, value in options.items() if value is not None}
        self.function = function
        self.name: Any = given.pop("name", getattr(function, "__name__", type(function).__name__))
        where = f'workflow "{self.name}"'
        check_words(where, options, WorkflowOptions.__annotations__)
        declared = given.pop("params", {})
        if not isinstance(declared, Mapping):
            raise ConfigError(f"{where}: params are declarations or defaults by name, got {declared!r:.80}")
        self._declared = dict(declared)
        self._options = {"description": inspect.getdoc(function) or "", **given}
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Workflow:
        """Inside another workflow it returns what the function returns. Raises `GraphError`."""
        if recorder.get() is not None:
            result: Workflow = _finished(self.function(*args, **kwargs))
            return result  # what the outer workflow goes on with
        known = inspect.signature(self.function).parameters
        others = {name: param for name, param in self._declared.items() if name not in known}
        return self._built(Builder(self.name), others, lambda: self.function(*args, **kwargs))

    def definition(self) -> Workflow:
        """Arguments become parameters: those without a default are required."""
        arguments = inspect.signature(self.function).parameters
        try:
            hints = get_type_hints(self.function)
        except NameError:  # a type of a surrounding function; then any value is fine
            hints = {}
        params = {name: _param(each, hints.get(name)) for name, each in arguments.items()}
        builder = Builder(self.name)
        handles = {name: Handle(builder, f"params{step_text(name)}") for name in arguments}
        function: Callable[..., Any] = self.function
        return self._built(builder, {**params, **self._declared}, lambda: function(**handles))

    def _built(self, builder: Builder, params: Mapping[str, Any], call: Callable[[], Any]) -> Workflow:
        with _recording(builder):
            _finished(call())
        tasks = builder.tasks.values()
        return Workflow(
            name=self.name,
            params=params,
            tasks=[task for task in tasks if isinstance(task, WorkflowTask)],
            realtime_tasks=[task for task in tasks if isinstance(task, RealtimeTask)],
            **self._options,
        )


@overload
def workflow(function: Callable[P, Any], /) -> WorkflowFunction[P]: ...
@overload
def workflow(
    **options: Unpack[WorkflowOptions],
) -> Callable[[Callable[P, Any]], WorkflowFunction[P]]: ...
def workflow(function: Callable[..., Any] | None = None, /, **options: Unpack[WorkflowOptions]) -> Any:
    """Make a function that calls tasks a workflow, bare or with keywords. Raises `ConfigError`."""

    def decorate(function: Callable[..., Any]) -> WorkflowFunction[Any]:
        return WorkflowFunction(function, options)

    return decorate if function is None else decorate(function)


# --- running the function


@contextmanager
def _recording(builder: Builder) -> Iterator[None]:
    token = recorder.set(builder)
    try:
        yield
    finally:
        recorder.reset(token)


def _finished(result: Any) -> Any:
    """What a workflow function returned. One that is `async` has only awaited handles, so it never waits."""
    if not inspect.iscoroutine(result):
        return result
    try:
        result.send(None)
    except StopIteration as ended:
        return ended.value
    result.close()
    raise GraphError("a workflow function may only await calls of tasks")


# --- its arguments


def _param(parameter: inspect.Parameter, hint: Any) -> Param:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
        raise GraphError(f"argument {parameter.name} cannot be a parameter of a workflow: it has no name")
    if parameter.default is parameter.empty:
        return Param(type=_type_of(hint, may_be_null=False), required=True)
    default = to_json(parameter.default, f"the default of {parameter.name}")
    return Param(default=default, type=_type_of(hint, may_be_null=default is None))


def _type_of(hint: Any, *, may_be_null: bool) -> ParamType:
    """`may_be_null`: without a default; null is then a value of every type."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = [each for each in get_args(hint) if each is not type(None)]
        is_optional = len(inner) == 1 and may_be_null
        return _type_of(inner[0], may_be_null=True) if is_optional else ParamType.ANY
    return _TYPES.get(origin or hint, ParamType.ANY)


_TYPES: dict[Any, ParamType] = {
    str: ParamType.STRING,
    int: ParamType.INTEGER,
    float: ParamType.NUMBER,
    bool: ParamType.BOOLEAN,
    **dict.fromkeys((list, tuple, set, frozenset, Sequence), ParamType.ARRAY),
    **dict.fromkeys((dict, Mapping), ParamType.OBJECT),
}
