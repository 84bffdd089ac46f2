"""Builders with the words of the task-engine contract (section 3), in snake_case. Times are in seconds.

They make what the constructors `WorkflowTask`, `RealtimeTask` and `Workflow` make, and check it in `build`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Generic, Self, TypeVar, cast

from engine.errors import InvalidInput
from engine.functions.registry import FunctionRegistry
from engine.model.graph import Rule, priority_level
from engine.model.json import JSON
from engine.model.parameters import Param
from engine.model.realtime import (
    Backpressure,
    CollectorMode,
    Endpoint,
    Pressure,
    Protocol,
    RealtimeMode,
    RealtimeTask,
    RealtimeType,
    Reconnect,
    Subscription,
)
from engine.model.workflow_rules import Checks, check, check_task
from engine.model.workflows import Callback, CallbackState, Mode, UndoFunction, Workflow, WorkflowTask

DEFAULT_TIMEOUT_SECONDS = 30

Registry = FunctionRegistry | Collection[str]  # of functions, or their names
T = TypeVar("T", WorkflowTask, RealtimeTask)


class _TaskBuilder(Generic[T]):
    """What tasks of both sorts have."""

    def __init__(self, task: T, registry: Registry | None) -> None:
        self._task: T = task
        names = registry.names() if isinstance(registry, FunctionRegistry) else registry
        self._checks = Checks(functions=names)

    def with_job_function(self, name: str, params: JSON = None) -> Self:
        return self._with(function=name, params=params)

    def with_timeout(self, seconds: float | timedelta) -> Self:
        """Per attempt; 30 unless it is positive. Raises `InvalidInput` for what is no length of time."""
        length = _seconds(seconds)
        return self._with(timeout_ms=_ms(length if length > 0 else DEFAULT_TIMEOUT_SECONDS))

    def with_retry_count(self, count: int) -> Self:
        """Attempts besides the first; none if it is negative."""
        return self._with(retry_count=max(count, 0) if isinstance(count, int) else count)

    def with_dependencies(self, *names: str) -> Self:
        return self._with(depends_on=(*self._task.depends_on, *names))

    def with_dependency(self, name: str) -> Self:
        return self.with_dependencies(name)

    def build(self) -> T:
        """Raises `WorkflowError`. Without a registry, names of functions are looked up on submission."""
        check_task(self._task, self._checks)
        return self._task

    def _with(self, **fields: object) -> Self:
        changed: Any = fields  # of whatever type they are: `build` checks
        self._task = replace(self._task, **changed)
        return self


class TaskBuilder(_TaskBuilder[WorkflowTask]):
    def __init__(self, name: str, description: str = "", registry: Registry | None = None) -> None:
        super().__init__(WorkflowTask(name, description), registry)

    def with_kind(self, kind: str, params: JSON = None) -> Self:
        """Performed by an executor, such as `http` or `shell`, in place of a function."""
        return self._with(kind=kind, params=params)

    def with_retry_interval(self, seconds: float | timedelta) -> Self:
        """Wait so long between attempts; without it, or if it is negative, 1 s, 2 s, 4 s …"""
        return self._with(retry_interval_ms=_ms(seconds) if _seconds(seconds) >= 0 else None)

    def with_compensation(self, function: str, params: JSON = None) -> Self:
        return self._with(compensation=UndoFunction(function, params))

    def with_compensation_function(self, name: str) -> Self:
        return self.with_compensation(name)

    def with_task_handler(self, status: str, name: str, description: str = "") -> Self:
        """`status` is `success`, `failed` or `timeout`, in small or capital letters; several run in order."""
        callback = Callback(cast(CallbackState, str(status).lower()), name, description)
        return self._with(callbacks=(*self._task.callbacks, callback))

    def with_required_params(self, names: Iterable[str]) -> Self:
        # A text would be one name for each of its letters; `build` refuses it.
        is_listed = isinstance(names, Iterable) and not isinstance(names, str)
        return self._with(required_params=tuple(names) if is_listed else names)

    def with_result_mapping(self, mapping: Mapping[str, str]) -> Self:
        """`{parameter: field}` of a dependency's result."""
        return self._with(result_mapping=mapping)

    def with_template(self, is_template: bool = True) -> Self:
        return self._with(is_template=is_template)

    def with_rule(self, rule: Rule) -> Self:
        return self._with(rule=rule)

    def with_condition(self, condition: str) -> Self:
        """CEL; the task is skipped unless it holds."""
        return self._with(condition=condition)

    def with_queue(self, queue: str) -> Self:
        return self._with(queue=queue)

    def with_priority(self, priority: int | str) -> Self:
        """A number, or `low`, `medium`, `high`, `urgent`. Raises `GraphError`."""
        return self._with(priority=priority_level(priority))

    def with_limits(self, limits: Mapping[str, int]) -> Self:
        """These and no others; empty: none, whatever the function says."""
        return self._with(limits=dict(limits))

    def with_limit(self, key: str, at_most: int) -> Self:
        """At most so many tasks that name the key run at once."""
        return self._with(limits={**(self._task.limits or {}), key: at_most})


class RealtimeTaskBuilder(_TaskBuilder[RealtimeTask]):
    def __init__(self, name: str, description: str = "", registry: Registry | None = None) -> None:
        super().__init__(RealtimeTask(name, description), registry)

    def with_continuous_mode(self) -> Self:
        return self._with(mode=RealtimeMode.CONTINUOUS)

    def with_event_driven_mode(self) -> Self:
        return self._with(mode=RealtimeMode.EVENT_DRIVEN)

    def with_buffer_size(self, items: int) -> Self:
        return self._with(buffer_size=items)

    def with_buffer(self, size: int, batch_size: int) -> Self:
        return self._with(buffer_size=size, batch_size=batch_size)

    def with_flush_interval(self, interval: float | timedelta) -> Self:
        return self._with(flush_interval_ms=_ms(interval))

    def with_endpoint(self, url: str, protocol: str) -> Self:
        return self._with(endpoint=Endpoint(url, cast(Protocol, protocol)))

    def with_task_type(self, type: str) -> Self:
        return self._with(type=cast(RealtimeType, type))

    def with_reconnect(self, enabled: bool, max_attempts: int = 0) -> Self:
        """0 attempts: no limit."""
        return self._with(reconnect=replace(self._task.reconnect, enabled=enabled, max_attempts=max_attempts))

    def with_reconnect_backoff(self, first: float | timedelta, max: float | timedelta, factor: float) -> Self:
        waits: Reconnect = replace(self._task.reconnect, first_ms=_ms(first), max_ms=_ms(max), factor=factor)
        return self._with(reconnect=waits)

    def with_backpressure(self, threshold: float, action: str) -> Self:
        return self._with(backpressure=Backpressure(threshold, cast(Pressure, action)))

    def with_data_handler(self, name: str) -> Self:
        return self._with(data_handler=name)

    def with_error_handler(self, name: str) -> Self:
        return self._with(error_handler=name)

    def subscribe_event(
        self, event: str, handler: str, *, priority: int = 0, filter: str | None = None
    ) -> Self:
        subscription = Subscription(event, handler, priority, filter)
        return self._with(subscriptions=(*self._task.subscriptions, subscription))

    def with_collector(self, name: str) -> Self:
        return self._with(collector=name)

    def with_mode(self, mode: str) -> Self:
        """Of the collector: `push` or `pull`."""
        return self._with(collector_mode=cast(CollectorMode, mode))


class WorkflowBuilder:
    def __init__(self, name: str, description: str = "") -> None:
        self._workflow = Workflow(name, description)

    def with_name(self, name: str) -> Self:
        return self._with(name=name)

    def with_task(self, task: WorkflowTask) -> Self:
        return self._with(tasks=(*self._workflow.tasks, task))

    def with_realtime_task(self, task: RealtimeTask) -> Self:
        return self._with(realtime_tasks=(*self._workflow.realtime_tasks, task))

    def with_cron_expr(self, expression: str, timezone: str | None = None) -> Self:
        return self._with(cron=expression, timezone=timezone)

    def with_params(self, params: Mapping[str, Param | JSON]) -> Self:
        """Default values by name, or declarations with types."""
        return self._with(params=_merged(self._workflow.params, params))

    def with_streaming_mode(self) -> Self:
        return self._with(mode=Mode.STREAMING)

    def with_batch_mode(self) -> Self:
        return self._with(mode=Mode.BATCH)

    def with_max_concurrent_task(self, count: int | None) -> Self:
        return self._with(max_concurrent_task=count)

    def with_sub_task_error_tolerance(self, share: float) -> Self:
        return self._with(sub_task_error_tolerance=share)

    def with_transactional(self, is_transactional: bool = True) -> Self:
        return self._with(transactional=is_transactional)

    def with_labels(self, labels: Mapping[str, str]) -> Self:
        return self._with(labels=_merged(self._workflow.labels, labels))

    def build(self) -> Workflow:
        """Raises `WorkflowError` that tells all that is wrong."""
        check(self._workflow)
        return self._workflow

    def _with(self, **fields: object) -> Self:
        changed: Any = fields  # as above
        self._workflow = replace(self._workflow, **changed)
        return self


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**old, **new} if isinstance(new, Mapping) else new  # which `build` refuses


def _ms(length: float | timedelta) -> int:
    """Of seconds; what is shorter than a millisecond is rounded."""
    return round(_seconds(length) * 1_000)


def _seconds(length: float | timedelta) -> float:
    seconds = length.total_seconds() if isinstance(length, timedelta) else length
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not math.isfinite(seconds):
        raise InvalidInput(f"a length of time is a number of seconds or a timedelta, got {length!r:.80}")
    return seconds
