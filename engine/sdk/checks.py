"""Everything that a database could refuse in a graph, checked before the first statement is sent.

A statement that fails would doom a transaction that is not ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import msgspec

from engine.errors import GraphError, TooLarge
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    Dependency,
    Graph,
    Plan,
    Rule,
    TaskSpec,
    check_name,
)
from engine.model.json import JSON, Unstorable, check_storable
from engine.model.retry import Backoff, RetryPolicy
from engine.operations.submits import check

MAX_PARAMS_BYTES = 256 * 1024
MAX_LABELS = 100
MAX_LABEL = 1_000
MAX_MS = 2**31 - 1  # 24 days: what the column of delays holds
MAX_TIMEOUT_MS = 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds that this program performs; `are_all` if nobody else performs any."""

    registry: ExecutorRegistry
    are_all: bool


def checked(graph: Graph, kinds: Kinds | None = None) -> Plan:
    """The plan of `graph`. Raises `GraphError`, `TooLarge` or `UnknownKind`.

    With `kinds`, their executors check the parameters of their tasks.
    """
    if not isinstance(graph, Graph):
        raise GraphError(
            f"expected an engine.Graph (engine.graph([…]) makes one), got {type(graph).__name__}"
        )
    if graph.name is not None:
        check_name(graph.name, "the run's name")
    _check_labels(graph.labels)
    for task in graph.tasks:
        _check_task(task)
    plan = check(graph, kinds.registry.kinds() if kinds is not None and kinds.are_all else None)
    if kinds is not None:
        for task in graph.tasks:
            _check_params(task, kinds.registry)
    return plan


def _check_labels(labels: Any) -> None:
    if not isinstance(labels, dict) or len(labels) > MAX_LABELS:
        raise GraphError(f"labels are a dictionary of at most {MAX_LABELS} texts")
    for key, value in labels.items():
        check_name(key, "a label")
        if not isinstance(value, str) or len(value) > MAX_LABEL:
            raise GraphError(f"label {key!r} is not a text of at most {MAX_LABEL} characters")
        _check_json(value, f"label {key!r}")


def _check_task(task: TaskSpec) -> None:
    if not isinstance(task, TaskSpec):
        raise GraphError(f"a task of a graph is an engine.TaskSpec, got {type(task).__name__}")
    check_name(task.name, "task id")
    for name, default, check_value, what in _CHECKS:
        value = getattr(task, name)
        if value is not default:  # most fields of most tasks were not given
            check_value(value, f'task "{task.name}": {what}')


def _check_params(task: TaskSpec, registry: ExecutorRegistry) -> None:
    if task.kind not in registry:
        return
    try:
        registry.get(task.kind).check(task.params)
    except ValueError as error:
        raise GraphError(f'task "{task.name}": {error}') from None
    if task.params:
        for message in registry.unknown(task.kind, task.params).values():
            raise GraphError(f'task "{task.name}": {message}')


def _check_dependencies(values: Any, what: str) -> None:
    for dependency in values:
        if not isinstance(dependency, Dependency):
            raise GraphError(f"{what} holds engine.Dependency, got {dependency!r:.80}")
        check_name(dependency.name, f"{what}: name of a dependency")
        if dependency.condition is not None:
            check_name(dependency.condition, f"{what}: condition of a dependency")


def _check_rule(value: Any, what: str) -> None:
    if not isinstance(value, Rule):
        raise GraphError(f"{what} is an engine.Rule, got {value!r:.80}")


def _integer(low: int, high: int) -> Check:
    return lambda value, what: _check_integer(value, low, high, what)


def _check_integer(value: Any, low: int, high: int, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise GraphError(f"{what} is an integer from {low} to {high}, got {value!r:.80}")


def _check_number(value: Any, low: float, high: float, what: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not low <= value <= high:
        raise GraphError(f"{what} is a number from {low} to {high}, got {value!r:.80}")


def _check_moment(value: Any, what: str) -> None:
    if value is not None and (
        not isinstance(value, datetime) or value.tzinfo is None or not 1970 <= value.year <= 9000
    ):
        raise GraphError(
            f"{what} is a datetime with a time zone, from the year 1970 to 9000, got {value!r:.80}"
        )


def _check_retry(retry: Any, what: str) -> None:
    if not isinstance(retry, RetryPolicy):
        raise GraphError(f"{what} is an engine.RetryPolicy, got {type(retry).__name__}")
    if not isinstance(retry.backoff, Backoff):
        raise GraphError(f"{what}.backoff is an engine.Backoff, got {retry.backoff!r:.80}")
    _check_integer(retry.max_attempts, 1, 1_000, f"{what}.max_attempts")
    _check_integer(retry.max_crashes, 1, 100, f"{what}.max_crashes")
    _check_integer(retry.initial_ms, 0, MAX_MS, f"{what}.initial_ms")
    _check_integer(retry.max_ms, 0, MAX_MS, f"{what}.max_ms")
    _check_number(retry.factor, 1, 1_000, f"{what}.factor")
    _check_number(retry.jitter, 0, 1, f"{what}.jitter")


def _check_payload(value: JSON, what: str) -> None:
    _check_json(value, what)
    size = len(msgspec.json.encode(value))
    if size > MAX_PARAMS_BYTES:
        raise TooLarge(f"{what} has {size} bytes, the limit is {MAX_PARAMS_BYTES}")


def _check_json(value: JSON, what: str) -> None:
    try:
        check_storable(value)
    except Unstorable as error:
        raise GraphError(f"{what} cannot be stored: {error}") from None


Check = Callable[[Any, str], None]
_DEFAULTS = {field.name: field.default for field in fields(TaskSpec)}
_CHECKS: list[tuple[str, Any, Check, str]] = [
    (name, _DEFAULTS[name], check_value, what)
    for name, check_value, what in (
        ("kind", check_name, "type"),
        ("queue", check_name, "queue"),
        ("params", _check_payload, "params"),
        ("client", _check_payload, "client"),
        ("depends_on", _check_dependencies, "depends_on"),
        ("rule", _check_rule, "rule"),
        ("priority", _integer(MIN_PRIORITY, MAX_PRIORITY), "priority"),
        ("delay_ms", _integer(0, MAX_MS), "delay_ms"),
        ("timeout_ms", _integer(1, MAX_TIMEOUT_MS), "timeout_ms"),
        ("available_at", _check_moment, "available_at"),
        ("retry", _check_retry, "retry"),
    )
]
