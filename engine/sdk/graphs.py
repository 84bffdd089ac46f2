"""Graphs from plain dictionaries, with the same names as `TaskSpec`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.model.graph import Graph, TaskSpec
from engine.model.specs import to_spec


def graph(
    tasks: Iterable[TaskSpec | Mapping[str, Any]],
    *,
    name: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Graph:
    """A graph of `TaskSpec`s and dictionaries. Raises `GraphError`.

    In a dictionary `depends_on` may list names, `rule` and `priority` may be text, `retry` a dictionary:
    `{"name": "load", "kind": "shell", "params": {…}, "depends_on": ["fetch"], "rule": "all_done"}`.
    """
    specs = tuple(task if isinstance(task, TaskSpec) else to_spec(task) for task in tasks)
    return Graph(specs, name=name, labels=dict(labels or {}))
