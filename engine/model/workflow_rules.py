"""The rules of a workflow. All that is broken is told at once, with its path: `tasks[1].depends_on[0]`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from engine.errors import (
    MAX_FAULTS,
    Fault,
    GraphError,
    InvalidCron,
    InvalidZone,
    WorkflowError,
)
from engine.model import shapes, workflow_edges, workflow_references
from engine.model.cron import Cron
from engine.model.durations import MAX_MS, MAX_TIMEOUT_MS, format_ms
from engine.model.graph import MAX_AT_MOST, MAX_LIMITS, MAX_PRIORITY, MAX_TASKS, MIN_PRIORITY, check_name
from engine.model.json import JSON, Unstorable, check_storable
from engine.model.parameters import Param, accepts
from engine.model.placeholders import OPEN, Path
from engine.model.realtime import RealtimeMode, RealtimeTask
from engine.model.sagas import OFFERED
from engine.model.similar import near
from engine.model.workflow_edges import Tasks
from engine.model.workflow_graph import REALTIME
from engine.model.workflow_references import Condition
from engine.model.workflows import FUNCTION, Mode, UndoFunction, Workflow, WorkflowTask
from engine.model.zones import zone_named

MAX_RETRIES = 999
MAX_TEXT = 10_000  # characters of a description or a condition
MAX_ITEMS = 1_000  # of params, labels, required_params, result_mapping, callbacks, subscriptions
MAX_LABELS = 100
MAX_LABEL = 1_000
MAX_PARAMS_BYTES = 256 * 1024
MAX_PARAMS_DEPTH = 60  # a task's parameters are stored inside other objects, whose limit is 64
MAX_BUFFER = 10_000_000


@dataclass(frozen=True, slots=True)
class Checks:
    """What only the surrounding program can tell. What is None is not checked.

    `condition(text)` raises `ValueError` or `InvalidInput` for CEL that is wrong, and returns what it reads:
    tasks have to be upstream, parameters have to be the task's own. `params(kind, params)` says what is wrong
    with a task's parameters, as far as that can be told while they hold placeholders.
    """

    functions: Collection[str] | None = None
    kinds: Collection[str] | None = None
    condition: Condition | None = None
    params: Callable[[str, JSON], str | None] | None = None
    max_timeout_ms: int = MAX_TIMEOUT_MS


NO_CHECKS = Checks()


def check(workflow: Workflow, checks: Checks = NO_CHECKS) -> None:
    """Raises `WorkflowError` with all faults."""
    if found := faults(workflow, checks):
        raise WorkflowError(found)


def check_task(task: WorkflowTask | RealtimeTask, checks: Checks = NO_CHECKS) -> None:
    """What can be told of a task that stands alone. Raises `WorkflowError`."""
    found = shapes.faults_of(task) or list(_each_task(task, checks))
    if found:
        raise WorkflowError(found)


def faults(workflow: Workflow, checks: Checks = NO_CHECKS) -> list[Fault]:
    """Everything that is wrong. With wrong types only those are told: what they should be is not known."""
    if wrong := shapes.faults_of(workflow):
        return wrong
    tasks = all_tasks(workflow)
    if len(tasks) > MAX_TASKS:
        return [Fault(("tasks",), f"has {len(tasks)} tasks, the limit is {MAX_TASKS}")]
    found = [*_own(workflow)]
    for path, task in tasks:
        if len(found) > MAX_FAULTS:
            return found
        found += _below(path, _each_task(task, checks))
    upstream = workflow_edges.direct(tasks)
    # No more than are told: each of a million unknown names would be compared with all that are known.
    found += islice(workflow_edges.faults(tasks, upstream), MAX_FAULTS + 1)
    read = workflow_references.faults(workflow.params, tasks, upstream, checks.condition)
    found += islice(read, MAX_FAULTS + 1)
    return found


def all_tasks(workflow: Workflow) -> Tasks:
    """Tasks of both sorts with their paths; names are unique among all of them."""
    ordinary = [(("tasks", index), task) for index, task in enumerate(workflow.tasks)]
    realtime = [(("realtime_tasks", index), task) for index, task in enumerate(workflow.realtime_tasks)]
    return [*ordinary, *realtime]


def _below(path: Path, found: Iterable[Fault]) -> Iterator[Fault]:
    return (fault._replace(path=(*path, *fault.path)) for fault in found)


# --- the workflow itself


def _own(workflow: Workflow) -> Iterator[Fault]:
    yield from _name(("name",), workflow.name, "workflow name")
    yield from _text(("description",), workflow.description)
    yield from _params(workflow.params)
    yield from _labels(workflow.labels)
    yield from _schedule(workflow)
    if workflow.max_concurrent_task is not None:
        yield from _range(("max_concurrent_task",), workflow.max_concurrent_task, 1, MAX_TASKS)
    yield from _range(("sub_task_error_tolerance",), workflow.sub_task_error_tolerance, 0, 1)
    if workflow.transactional and workflow.sub_task_error_tolerance:
        yield Fault(("transactional",), "needs sub_task_error_tolerance 0")
    if workflow.mode is not Mode.STREAMING:
        for index, task in enumerate(workflow.realtime_tasks):
            if task.mode is not RealtimeMode.ONE_SHOT:
                where = "realtime_tasks", index, "mode"
                yield Fault(where, f"{task.mode} needs a workflow in streaming mode")


def _params(params: Mapping[str, Param]) -> Iterator[Fault]:
    yield from _count(("params",), params)
    for name, param in params.items():
        path = "params", name
        yield from _name(path, name, "parameter name")
        yield from _text((*path, "description"), param.description)
        yield from _json((*path, "default"), param.default)
        if param.required and param.default is not None:
            yield Fault((*path, "default"), "a required parameter has no default")
        elif param.default is not None and not accepts(param, param.default):
            yield Fault((*path, "default"), f"expected {param.type}, got {shapes.echo(param.default)}")


def _labels(labels: Mapping[str, str]) -> Iterator[Fault]:
    if len(labels) > MAX_LABELS:
        yield Fault(("labels",), f"has {len(labels)} labels, the limit is {MAX_LABELS}")
    for name, value in labels.items():
        yield from _name(("labels", name), name, "label")
        yield from _text(("labels", name), value, MAX_LABEL)


def _schedule(workflow: Workflow) -> Iterator[Fault]:
    if workflow.cron is None:
        if workflow.timezone is not None:
            yield Fault(("timezone",), "has no meaning without cron")
        return
    try:
        Cron.parse(workflow.cron)
    except InvalidCron as error:
        yield Fault(("cron",), f"{workflow.cron[:80]!r}: {error}")
    try:
        zone_named(workflow.timezone or "UTC")
    except InvalidZone as error:
        yield Fault(("timezone",), str(error))


# --- each task


def _each_task(task: WorkflowTask | RealtimeTask, checks: Checks) -> Iterator[Fault]:
    yield from _name(("name",), task.name, "task name")
    yield from _text(("description",), task.description)
    yield from _json(("params",), task.params)
    yield from _timeout(task.timeout_ms, checks.max_timeout_ms)
    if task.retry_count is not None:
        yield from _range(("retry_count",), task.retry_count, 0, MAX_RETRIES)
    for path, name in _functions(task):
        yield from _function(path, name, checks)
    if isinstance(task, RealtimeTask):
        yield from _realtime(task, checks)
    else:
        yield from _ordinary(task, checks)


def _ordinary(task: WorkflowTask, checks: Checks) -> Iterator[Fault]:
    yield from _performer(task, checks)
    if task.condition is not None:
        yield from _text(("condition",), task.condition)
        if not task.condition.strip():
            yield Fault(("condition",), "is blank")
    if task.retry_interval_ms is not None:
        yield from _time(("retry_interval_ms",), task.retry_interval_ms, 0, MAX_MS)
    if task.priority is not None:
        yield from _range(("priority",), task.priority, MIN_PRIORITY, MAX_PRIORITY)
    if task.queue is not None:
        yield from _name(("queue",), task.queue, "queue")
    limits = task.limits or {}
    if len(limits) >= MAX_LIMITS:  # one is the workflow's own
        yield Fault(("limits",), f"has {len(limits)} limits, at most {MAX_LIMITS - 1} are possible")
    for key, at_most in limits.items():
        yield from _name(("limits", key), key, "limit")
        yield from _range(("limits", key), at_most, 1, MAX_AT_MOST)
    for name in ("required_params", "result_mapping", "callbacks"):
        yield from _count((name,), getattr(task, name))
    for index, name in enumerate(task.required_params):
        yield from _name(("required_params", index), name, "parameter name")
    for target, source in task.result_mapping.items():
        yield from _name(("result_mapping", target), target, "parameter name")
        yield from _name(("result_mapping", target), source, "field name")
    if task.kind != FUNCTION and (task.required_params or task.result_mapping):
        yield from _arguments(task.params)
    if task.kind != FUNCTION or (task.function is not None and _is_known(task.function, checks)):
        yield from _performable(("params",), task.kind, _performed(task), checks)
    if task.compensation is not None:
        yield from _json(("compensation", "params"), task.compensation.params)
        if _is_known(task.compensation.function, checks):
            yield from _performable(("compensation", "params"), FUNCTION, _undone(task.compensation), checks)
    for index, callback in enumerate(task.callbacks):
        yield from _text(("callbacks", index, "description"), callback.description)


def _performer(task: WorkflowTask, checks: Checks) -> Iterator[Fault]:
    if task.kind == FUNCTION:
        if task.function is None:
            yield Fault(("function",), "is required (or another kind)")
        yield from _arguments(task.params)
        return
    yield from _name(("kind",), task.kind, "kind")
    if task.function is not None:
        yield Fault(("function",), f"has no meaning for the kind {task.kind!r:.80}")
    if checks.kinds is not None and task.kind not in checks.kinds:
        yield Fault(("kind",), f'unknown kind "{task.kind[:80]}"{near(task.kind, {*checks.kinds, FUNCTION})}')


def _realtime(task: RealtimeTask, checks: Checks) -> Iterator[Fault]:
    yield from _stream(task)
    if checks.params is None or any(_each_task(task, NO_CHECKS)):  # who performs it would say the same again
        return
    is_known = all(_is_known(name, checks) for _, name in _functions(task))
    if is_known and (problem := checks.params(REALTIME, shapes.to_json(task))):
        yield Fault((), problem)


def _stream(task: RealtimeTask) -> Iterator[Fault]:
    yield from _arguments(task.params)
    if task.function is None and not any((task.data_handler, task.subscriptions, task.collector)):
        yield Fault(("function",), "is required (or a data_handler, a collector or subscriptions)")
    elif task.function is None and reads_function(task):
        yield Fault((), no_source(task.name))
    yield from _range(("buffer_size",), task.buffer_size, 1, MAX_BUFFER)
    yield from _range(("batch_size",), task.batch_size, 1, MAX_BUFFER)
    if task.batch_size > task.buffer_size > 0:
        yield Fault(("batch_size",), f"{task.batch_size} is more than the buffer holds ({task.buffer_size})")
    yield from _time(("flush_interval_ms",), task.flush_interval_ms, 1, MAX_MS)
    yield from _range(("backpressure", "threshold"), task.backpressure.threshold, 0, 1)
    reconnect = task.reconnect
    yield from _range(("reconnect", "max_attempts"), reconnect.max_attempts, 0, MAX_MS)
    yield from _time(("reconnect", "first_ms"), reconnect.first_ms, 0, MAX_MS)
    yield from _time(("reconnect", "max_ms"), reconnect.max_ms, reconnect.first_ms, MAX_MS)
    yield from _range(("reconnect", "factor"), reconnect.factor, 1, 1_000)
    yield from _range(("reconnect", "jitter"), reconnect.jitter, 0, 1)
    if task.endpoint is not None:
        yield from _text(("endpoint", "url"), task.endpoint.url)
        if not task.endpoint.url.strip():
            yield Fault(("endpoint", "url"), "is required")
    if task.collector is not None:
        yield from _name(("collector",), task.collector, "collector")
    yield from _count(("subscriptions",), task.subscriptions)
    for index, subscription in enumerate(task.subscriptions):
        yield from _name(("subscriptions", index, "event"), subscription.event, "event")
        if subscription.filter is not None:
            yield from _text(("subscriptions", index, "filter"), subscription.filter)


def reads_function(task: RealtimeTask) -> bool:
    """Whether its items can come from nowhere but its function."""
    return task.mode is RealtimeMode.CONTINUOUS and task.collector is None and task.endpoint is None


def no_source(name: str) -> str:
    return (
        f"task {name!r} has no source: give it an endpoint, a collector, a function that yields, or the "
        "event-driven mode"
    )


def _performable(path: Path, kind: str, params: JSON, checks: Checks) -> Iterator[Fault]:
    """What whoever performs the task says of its parameters."""
    if checks.params is not None and (problem := checks.params(kind, params)):
        yield Fault(path, problem)


def _performed(task: WorkflowTask) -> JSON:
    """The parameters as whoever performs the task gets them; some are known only then."""
    given = task.params
    if task.result_mapping:
        given = {**dict.fromkeys(task.result_mapping, OPEN), **(given if isinstance(given, Mapping) else {})}
    return {"function": task.function, "params": given} if task.kind == FUNCTION else given


def _undone(undo: UndoFunction) -> JSON:
    return {"function": undo.function, "params": undo.params, "offered": dict.fromkeys(OFFERED, OPEN)}


def _arguments(params: JSON) -> Iterator[Fault]:
    if not isinstance(params, Mapping | None):
        yield Fault(("params",), f"parameters of a function are an object, got {shapes.kind_of(params)}")


def _functions(task: WorkflowTask | RealtimeTask) -> Iterator[tuple[Path, str]]:
    """Names of functions that a task calls, with their paths."""
    named: list[tuple[Path, str | None]] = [(("function",), task.function)]
    if isinstance(task, RealtimeTask):
        named += [(("data_handler",), task.data_handler), (("error_handler",), task.error_handler)]
        named += [
            (("subscriptions", i, "function"), item.function) for i, item in enumerate(task.subscriptions)
        ]
    else:
        if task.compensation is not None:
            named.append((("compensation", "function"), task.compensation.function))
        named += [(("callbacks", i, "function"), item.function) for i, item in enumerate(task.callbacks)]
    return ((path, name) for path, name in named if name is not None)


def _function(path: Path, name: str, checks: Checks) -> Iterator[Fault]:
    yield from _name(path, name, "function name")
    if name.strip() and checks.functions is not None and not _is_known(name, checks):
        yield Fault(path, f'unknown function "{name[:80]}"{near(name, checks.functions)}')


def _is_known(function: str, checks: Checks) -> bool:
    return checks.functions is None or function in checks.functions


# --- values


def _name(path: Path, name: str, what: str) -> Iterator[Fault]:
    try:
        check_name(name, what)
    except GraphError as error:
        yield Fault(path, str(error))


def _text(path: Path, text: str, limit: int = MAX_TEXT) -> Iterator[Fault]:
    if len(text) > limit:
        yield Fault(path, f"has {len(text)} characters, the limit is {limit}")
    try:
        check_storable(text)
    except Unstorable as error:
        yield Fault(path, str(error))


def _json(path: Path, value: JSON) -> Iterator[Fault]:
    try:
        check_storable(value, max_depth=MAX_PARAMS_DEPTH, max_values=MAX_PARAMS_BYTES)
    except Unstorable as error:
        yield Fault(path, str(error))
        return
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > MAX_PARAMS_BYTES:
        yield Fault(path, f"has {size} bytes, the limit is {MAX_PARAMS_BYTES}")


def _range(path: Path, value: float, low: float, high: float) -> Iterator[Fault]:
    if not low <= value <= high:
        yield Fault(path, f"{value} is outside {low} to {high}")


def _time(path: Path, milliseconds: int, low: int, high: int) -> Iterator[Fault]:
    if not low <= milliseconds <= high:
        shown = f"{milliseconds}ms" if milliseconds < 0 else format_ms(milliseconds)
        yield Fault(path, f"{shown} is outside {format_ms(low)} to {format_ms(high)}")


def _timeout(timeout_ms: int | None, longest: int) -> Iterator[Fault]:
    if timeout_ms is not None:
        yield from _time(("timeout_ms",), timeout_ms, 1, min(longest, MAX_TIMEOUT_MS))


def _count(path: Path, items: Collection[Any]) -> Iterator[Fault]:
    if len(items) > MAX_ITEMS:
        yield Fault(path, f"has {len(items)} entries, the limit is {MAX_ITEMS}")
