"""What happens to calls of tasks while a workflow function runs: each becomes a task, its results handles."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from engine.errors import ConfigError, EngineError, GraphError
from engine.functions.decorator import TaskFunction, recorder
from engine.functions.function import Function, Options
from engine.functions.results import to_json
from engine.model.graph import Rule
from engine.model.json import JSON
from engine.model.placeholders import OPEN, BadPlaceholder, parse
from engine.model.realtime import RealtimeTask
from engine.model.retry import Backoff, RetryPolicy
from engine.model.workflow_rules import check_task
from engine.model.workflows import Callback, UndoFunction, WorkflowTask
from engine.sdk.handles import Handle, expression, is_open, step_text, tasks_in

_OF_TASKS = ("retry", "retries", "retry_delay", "timeout", "queue", "priority", "limits")


def add_task(task: WorkflowTask | RealtimeTask) -> Any:
    """Inside a `@workflow`: add a task of any kind, or one of a stream. Returns what stands for its result.

    Its `params`, `condition` and `depends_on` may use results and parameters, as calls of tasks do. Raises
    `GraphError`.
    """
    building = recorder.get()
    if not isinstance(building, Builder):
        raise GraphError(
            "add_task adds to the graph of a function decorated with @workflow; none is being built"
        )
    return building.add(task)


@dataclass(slots=True)
class Builder:
    """Notes tasks while a workflow function runs."""

    workflow: str
    tasks: dict[str, WorkflowTask | RealtimeTask] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)  # of calls by name of the function

    def record(
        self, function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> Handle:
        """Raises `GraphError` that names the task."""
        name = self._name(function, options.get("name"))
        with self._naming(name):
            self.tasks[name] = self._called(name, function, _bound(function, args, kwargs), options)
        return Handle(self, f"tasks{step_text(name)}.result")

    def add(self, task: WorkflowTask | RealtimeTask) -> Handle:
        """Raises `GraphError` that names the task."""
        if not isinstance(task, WorkflowTask | RealtimeTask):
            raise GraphError(
                f'workflow "{self.workflow}": add_task takes a WorkflowTask or a RealtimeTask, '
                f"got {task!r:.80}"
            )
        self._require_free(task.name)
        with self._naming(task.name):
            self.tasks[task.name] = self._given(task)
        return Handle(self, f"tasks{step_text(task.name)}.result")

    @contextmanager
    def _naming(self, task: str) -> Iterator[None]:
        try:
            yield
        except (EngineError, BadPlaceholder, TypeError, ValueError) as error:
            raise GraphError(f'workflow "{self.workflow}", task "{task}": {error}') from None

    def _name(self, function: Function, wanted: str | None) -> str:
        """What was asked for, else the function's name: with a number from its second call on."""
        if wanted is not None:
            self._require_free(wanted)
            return wanted
        while True:
            self._numbers[function.name] += 1
            number = self._numbers[function.name]
            name = function.name if number == 1 else f"{function.name}-{number}"
            if name not in self.tasks:
                return name

    def _require_free(self, name: str) -> None:
        if name in self.tasks:
            raise GraphError(f'workflow "{self.workflow}" has two tasks of the name "{name}"')

    def _called(
        self, name: str, function: Function, given: Mapping[str, Any], options: Mapping[str, Any]
    ) -> WorkflowTask:
        arguments = {key: to_json(self._plain(value), f"argument {key}") for key, value in given.items()}
        when = options.get("when")
        said = {key: options[key] for key in _OF_TASKS if key in options}
        how = Options.of(**said)  # what the call says; what `@task` says is looked up when a run starts
        retry_count, interval_ms = _retrying(how.retry)
        task = WorkflowTask(
            name=name,
            description=options.get("description", function.description),
            function=function.name,
            params=arguments or None,
            depends_on=self._upstream([arguments, str(when)], _listed(options.get("after", ()))),
            rule=_rule(options.get("rule", Rule.ALL_SUCCESS)),
            condition=None if when is None else self._condition(when, arguments),
            timeout_ms=how.timeout_ms,
            retry_count=retry_count if said.keys() & {"retry", "retries"} else None,
            retry_interval_ms=interval_ms,
            queue=said.get("queue"),
            priority=how.priority if "priority" in said else None,
            limits={limit.key: limit.at_most for limit in how.limits} if "limits" in said else None,
            required_params=options.get("required", function.required),
            result_mapping=options.get("result_mapping", {}),
            compensation=self._compensation(options.get("compensate")),
            callbacks=[_callback(each) for each in options.get("callbacks", ())],
            is_template=options.get("is_template", False),
        )
        check_task(task)
        later = dict.fromkeys((*task.result_mapping, *task.required_params), OPEN)
        function.check({**later, **arguments}, is_open=_is_later, offered=task.required_params)
        return task

    def _given(self, task: WorkflowTask | RealtimeTask) -> WorkflowTask | RealtimeTask:
        params = to_json(self._plain(task.params), "params")
        if isinstance(task, RealtimeTask):
            return replace(task, params=params, depends_on=self._upstream([params], task.depends_on))
        condition, undo = task.condition, task.compensation
        depends_on = self._upstream([params, str(condition)], task.depends_on)
        if "${{" in str(condition):  # which CEL does not know
            condition = self._condition(condition, params if isinstance(params, Mapping) else {})
        if isinstance(undo, UndoFunction):
            undo = replace(undo, params=to_json(self._plain(undo.params), "parameters of the compensation"))
        return replace(task, params=params, depends_on=depends_on, condition=condition, compensation=undo)

    def _upstream(self, using: list[JSON], after: Iterable[Any]) -> tuple[str, ...]:
        """Names of the tasks whose results are used, and of those that are listed."""
        used = [task for text in using for task in tasks_in(text)]
        names = tuple(dict.fromkeys([*used, *map(self._task_of, after)]))
        for name in names:
            if name not in self.tasks:
                raise GraphError(f'there is no task "{name}" before it')
        return names

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

    def _compensation(self, given: Any) -> UndoFunction | None:
        if given is None:
            return None
        function, params = given if isinstance(given, tuple) else (given, None)
        name = _name_of(function)
        if name is None:
            raise GraphError("compensate is a task, its name, or (task, parameters)")
        return UndoFunction(name, to_json(self._plain(params), "parameters of compensate"))


# --- parts of a call


def _bound(function: Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by name, as the function would get them, without the context. Raises `TypeError`.

    Some may be missing, which `Function.check` tells: they can come from a dependency's result.
    """
    signature = inspect.signature(function.call)
    context = function.signature.context
    if context is not None and function.signature.names == () and not args:
        return dict(kwargs)  # it reads its parameters from the context
    kept = [each for each in signature.parameters.values() if each.name != context]
    bound = signature.replace(parameters=kept).bind_partial(*args, **kwargs)
    extra = next((each.name for each in kept if each.kind is each.VAR_KEYWORD), None)
    named = {name: value for name, value in bound.arguments.items() if name != extra}
    return {**named, **bound.arguments.get(extra or "", {})}


def _is_later(value: JSON) -> bool:
    return value == OPEN or is_open(value)


def _listed(after: Any) -> Iterable[Any]:
    return [after] if isinstance(after, Handle | str) else after


def _rule(given: Any) -> Rule:
    if given not in list(Rule):
        raise GraphError(f"rule {given!r:.40} is not one of {', '.join(Rule)}")
    return Rule(given)


def _callback(given: Any) -> Callback:
    if isinstance(given, Callback):
        return given
    match given:
        case (state, function) if (name := _name_of(function)) is not None:
            return Callback(state, name)
    raise GraphError("callbacks lists engine.Callback, or (state, task), with the task or its name")


def _name_of(function: Any) -> str | None:
    """Of a task that is given as itself or by its name."""
    name = function.name if isinstance(function, TaskFunction) else function
    return name if isinstance(name, str) else None


def _retrying(retry: RetryPolicy) -> tuple[int, int | None]:
    if retry.backoff is Backoff.FIXED:
        return retry.max_attempts - 1, retry.initial_ms
    if retry != RetryPolicy(max_attempts=retry.max_attempts):
        raise ConfigError("a workflow keeps retries and retry_delay, no other RetryPolicy with a backoff")
    return retry.max_attempts - 1, None
