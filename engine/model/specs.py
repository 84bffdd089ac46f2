"""Task specs from plain values, with the names of `TaskSpec`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from engine.errors import GraphError
from engine.model.graph import Dependency, Rule, TaskSpec, priority_level
from engine.model.retry import RetryPolicy


def to_spec(task: Mapping[str, Any]) -> TaskSpec:
    """`depends_on` may list names, `rule` and `priority` may be text, `retry` a dictionary.

    Raises `GraphError`.
    """
    if not isinstance(task, Mapping) or not {"name", "kind"} <= task.keys():
        raise GraphError(f"a task is a TaskSpec, or a dictionary with `name` and `kind`; got {task!r:.80}")
    values = dict(task)
    where = f"task {values['name']!r:.80}"
    if unknown := sorted(map(str, values.keys() - _FIELDS)):
        raise GraphError(f"{where}: unknown field {', '.join(unknown)} (accepted: {', '.join(_FIELDS)})")
    try:
        for field, convert in _CONVERSIONS.items():
            if field in values:
                values[field] = convert(values[field])
        return TaskSpec(**values)
    except (TypeError, ValueError, KeyError) as error:
        raise GraphError(f"{where}: {error}") from None


_FIELDS = tuple(field.name for field in fields(TaskSpec))


def _dependencies(listed: Iterable[str | Mapping[str, Any] | Dependency]) -> tuple[Dependency, ...]:
    if isinstance(listed, str):
        raise TypeError(f'depends_on is a list of names; got the text "{listed}"')
    return tuple(_dependency(item) for item in listed)


def _dependency(item: str | Mapping[str, Any] | Dependency) -> Dependency:
    if isinstance(item, Dependency):
        return item
    return Dependency(item) if isinstance(item, str) else Dependency(**item)


def _retry(value: RetryPolicy | dict[str, Any]) -> RetryPolicy:
    return value if isinstance(value, RetryPolicy) else RetryPolicy.from_json(value)


_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "depends_on": _dependencies,
    "rule": Rule,
    "priority": priority_level,
    "retry": _retry,
}
