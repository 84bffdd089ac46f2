"""`@workflow`: a Python function that builds a graph by calling tasks.

Calls return handles. A handle given to another call, whole or a field of it, makes the dependency and stands
for the result as a placeholder (`engine.model.placeholders`).
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, ParamSpec, get_type_hints, overload

from engine.errors import ConfigError, EngineError, GraphError
from engine.functions.decorator import TaskFunction, recorder
from engine.functions.function import Function, Options
from engine.functions.results import to_json
from engine.model.graph import Rule
from engine.model.json import JSON
from engine.model.parameters import Param, ParamType
from engine.model.placeholders import BadPlaceholder, parse
from engine.model.retry import Backoff, RetryPolicy
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from engine.sdk.handles import Handle, expression, is_open, step_text, tasks_in

P = ParamSpec("P")

_GIVEN = ("retry", "retries", "retry_delay", "timeout", "queue", "priority")


@dataclass(frozen=True, slots=True)
class Call:
    """One task of a workflow under construction. `arguments` hold placeholders for results."""

    name: str
    function: Function
    arguments: dict[str, JSON]
    depends_on: tuple[str, ...]
    when: str | None
    rule: Rule
    options: Options
    compensate: tuple[str, JSON] | None


@dataclass(slots=True)
class Builder:
    """Notes calls of tasks while a workflow function runs."""

    workflow: str
    calls: dict[str, Call] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)  # of calls by name of the function

    def record(
        self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Handle:
        """Raises `GraphError` that names the task."""
        name = self._name(function, options.get("name"))
        where = f'workflow "{self.workflow}", task "{name}"'
        try:
            call = self._call(name, function, _bound(function, args, kwargs), options)
        except (EngineError, BadPlaceholder, TypeError, ValueError) as error:
            raise GraphError(f"{where}: {error}") from None
        self.calls[name] = call
        return Handle(self, f"tasks{step_text(name)}.result")

    def to_tasks(self) -> list[WorkflowTask]:
        return [_task(call) for call in self.calls.values()]

    def _name(self, function: Function, wanted: str | None) -> str:
        """What was asked for, else the function's name: with a number from its second call on."""
        if wanted is not None:
            if wanted in self.calls:
                raise GraphError(f'workflow "{self.workflow}" has two tasks of the name "{wanted}"')
            return wanted
        while True:
            self._numbers[function.name] += 1
            number = self._numbers[function.name]
            name = function.name if number == 1 else f"{function.name}-{number}"
            if name not in self.calls:
                return name

    def _call(
        self, name: str, function: Function, given: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Call:
        arguments = {key: to_json(self._plain(value), f"argument {key}") for key, value in given.items()}
        function.check(arguments, is_open=is_open)
        when = None if options.get("when") is None else self._condition(options["when"], arguments)
        compensate = self._compensation(options.get("compensate"))
        after = [self._task_of(item) for item in _listed(options.get("after", ()))]
        texts = [arguments, *([str(options["when"])] if when else [])]
        upstream = [task for text in texts for task in tasks_in(text)]
        for other in dict.fromkeys([*upstream, *after]):
            if other not in self.calls:
                raise GraphError(f'there is no task "{other}" before it')
        return Call(
            name=name,
            function=function,
            arguments=arguments,
            depends_on=tuple(dict.fromkeys([*upstream, *after])),
            when=when,
            rule=Rule(options.get("rule", Rule.ALL_SUCCESS)),
            options=function.options.but(**{key: options[key] for key in _GIVEN if key in options}),
            compensate=compensate,
        )

    def _plain(self, value: Any) -> Any:
        """`value` with handles replaced by their placeholders."""
        if isinstance(value, Handle):
            return str(self._own(value))
        if isinstance(value, Mapping):
            return {key: self._plain(item) for key, item in value.items()}
        if type(value) in (list, tuple, set, frozenset):
            return [self._plain(item) for item in value]
        return value

    def _own(self, handle: Handle) -> Handle:
        if handle._root is not self:
            raise GraphError(f"{handle!r} belongs to another workflow")
        return handle

    def _task_of(self, item: Any) -> str:
        if isinstance(item, str):
            return item
        if not isinstance(item, Handle):
            raise GraphError(f"after lists results of calls, or names of tasks; got {type(item).__name__}")
        for task in tasks_in(str(self._own(item))):
            return task
        raise GraphError(f"after lists results of calls, or names of tasks; {item!r} is neither")

    def _condition(self, when: Any, arguments: Mapping[str, JSON]) -> str:
        """CEL text, in which results are written as what they are: `tasks.load.result`."""
        if not isinstance(when, str | Handle):
            raise GraphError(f"when is a text or a result, got {type(when).__name__}")
        text = str(self._own(when)) if isinstance(when, Handle) else when
        parts = (part if isinstance(part, str) else expression(part, arguments) for part in parse(text))
        return "".join(parts)

    def _compensation(self, given: Any) -> tuple[str, JSON] | None:
        if given is None:
            return None
        function, params = given if isinstance(given, tuple) else (given, None)
        name = function.name if isinstance(function, TaskFunction) else function
        if not isinstance(name, str):
            raise GraphError("compensate is a task, its name, or (task, parameters)")
        return name, to_json(self._plain(params), "parameters of compensate")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a workflow says of itself besides its tasks; fields of `engine.model.workflows.Workflow`."""

    description: str = ""
    cron: str | None = None
    timezone: str | None = None
    max_concurrent_task: int | None = None
    transactional: bool | None = None
    labels: Mapping[str, str] | None = None

    def given(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in values.items() if value is not None}


class WorkflowFunction(Generic[P]):
    """A function decorated with `@workflow`.

    Calling it with its arguments builds the workflow for just these: it may then use them like any values.
    `definition()` builds the one to save: its arguments are parameters of each run. Inside another workflow a
    call adds its tasks to that one.
    """

    def __init__(self, function: Callable[P, Any], name: str, settings: Settings) -> None:
        self.function = function
        self.name = name
        self.settings = settings
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Workflow:
        """Inside another workflow it returns what the function returns. Raises `GraphError`."""
        if recorder.get() is not None:
            result: Workflow = _finished(self.function(*args, **kwargs))
            return result  # what the outer workflow goes on with
        return self._built({}, args, kwargs)

    def definition(self) -> Workflow:
        """Arguments become parameters: those without a default are required."""
        parameters = inspect.signature(self.function).parameters.values()
        try:
            hints = get_type_hints(self.function)
        except NameError:  # a type of a surrounding function; then any value is fine
            hints = {}
        params = {each.name: _param(each, hints.get(each.name)) for each in parameters}
        return self._built(params, (), None)

    def _built(
        self, params: Mapping[str, Param], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
    ) -> Workflow:
        builder = Builder(self.name)
        if kwargs is None:
            kwargs = {name: Handle(builder, f"params{step_text(name)}") for name in params}
        with _recording(builder):
            _finished(self.function(*args, **kwargs))
        return Workflow(
            name=self.name, params=params, tasks=tuple(builder.to_tasks()), **self.settings.given()
        )


@overload
def workflow(function: Callable[P, Any], /) -> WorkflowFunction[P]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    description: str | None = None,
    cron: str | None = None,
    timezone: str | None = None,
    max_concurrent_task: int | None = None,
    transactional: bool | None = None,
    labels: Mapping[str, str] | None = None,
) -> Callable[[Callable[P, Any]], WorkflowFunction[P]]: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    **settings: Any,
) -> Any:
    """Make a function that calls tasks a workflow, bare or with keywords."""

    def decorate(function: Callable[..., Any]) -> WorkflowFunction[Any]:
        told = inspect.getdoc(function) or "" if description is None else description
        return WorkflowFunction(function, name or function.__name__, Settings(told, **settings))

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


def _bound(function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, as the function would get them, without the context. Raises `TypeError`."""
    signature = inspect.signature(function.call)
    context = function.signature.context
    if context is not None and function.signature.names == () and not args:
        return dict(kwargs)  # it reads its parameters from the context
    kept = [each for each in signature.parameters.values() if each.name != context]
    bound = signature.replace(parameters=kept).bind(*args, **kwargs)
    extra = next((each.name for each in kept if each.kind is each.VAR_KEYWORD), None)
    named = {name: value for name, value in bound.arguments.items() if name != extra}
    return {**named, **bound.arguments.get(extra or "", {})}


def _param(parameter: inspect.Parameter, hint: Any) -> Param:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
        raise GraphError(f"argument {parameter.name} cannot be a parameter of a workflow: it has no name")
    if parameter.default is parameter.empty:
        return Param(type=_TYPES.get(hint, ParamType.ANY), required=True)
    default = to_json(parameter.default, f"the default of {parameter.name}")
    return Param(default=default, type=_TYPES.get(hint, ParamType.ANY))


_TYPES: dict[Any, ParamType] = {
    str: ParamType.STRING,
    int: ParamType.INTEGER,
    float: ParamType.NUMBER,
    bool: ParamType.BOOLEAN,
}


def _listed(after: Any) -> Iterable[Any]:
    return [after] if isinstance(after, Handle | str) else after


# --- the task of a call


def _task(call: Call) -> WorkflowTask:
    """Where a call becomes what is saved."""
    options, own = call.options, call.function.options
    retry_count, interval_ms = _retrying(options.retry, call.name)
    silent = Options()  # both of them: the engine may have a word of its own
    return WorkflowTask(
        name=call.name,
        description=call.function.description,
        function=call.function.name,
        params=call.arguments or None,
        depends_on=call.depends_on,
        rule=call.rule,
        condition=call.when,
        timeout_ms=options.timeout_ms,
        retry_count=None if silent.retry == options.retry == own.retry else retry_count,
        retry_interval_ms=interval_ms,
        queue=None if silent.queue == options.queue == own.queue else options.queue,
        priority=None if silent.priority == options.priority == own.priority else options.priority,
        required_params=call.function.required,
        compensation=None if call.compensate is None else UndoFunction(*call.compensate),
    )


def _retrying(retry: RetryPolicy, name: str) -> tuple[int, int | None]:
    if retry.backoff is Backoff.FIXED:
        return retry.max_attempts - 1, retry.initial_ms
    if retry != RetryPolicy(max_attempts=retry.max_attempts):
        raise ConfigError(
            f'task "{name}": a workflow keeps retries and retry_delay, no other RetryPolicy with a backoff'
        )
    return retry.max_attempts - 1, None
