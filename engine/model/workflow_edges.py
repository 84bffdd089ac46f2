"""The edges that tasks of a workflow declare by name: rules, and who is upstream of whom. Iterative."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from engine.errors import Fault
from engine.model.graph import MAX_EDGES
from engine.model.placeholders import Path
from engine.model.realtime import RealtimeTask
from engine.model.similar import near
from engine.model.workflows import WorkflowTask

Tasks = Sequence[tuple[Path, WorkflowTask | RealtimeTask]]
Upstream = Mapping[str, Sequence[str]]

_MAX_CHAIN = 20  # names of a cycle that are written out
_CHUNK = 4_096  # tasks whose downstream is followed at once, one bit each


def direct(tasks: Tasks) -> Upstream:
    """Direct dependencies by name, so far as they exist; a task's own name is told apart."""
    names = {task.name for _, task in tasks}
    return {
        task.name: tuple(name for name in task.depends_on if name in names and name != task.name)
        for _, task in tasks
    }


def faults(tasks: Tasks, upstream: Upstream) -> Iterator[Fault]:
    """Names that are taken, dependencies that are unknown, on the task itself or in a cycle."""
    first: dict[str, Path] = {}
    for path, task in tasks:
        if task.name.strip() and first.setdefault(task.name, path) != path:
            yield Fault((*path, "name"), f'duplicate task name "{task.name[:80]}"')
    edges = 0
    for path, task in tasks:
        edges += len(task.depends_on)
        for index, name in enumerate(task.depends_on):
            where = (*path, "depends_on", index)
            if name == task.name:
                yield Fault(where, f'task "{name[:80]}" cannot depend on itself')
            elif name not in first:
                yield Fault(where, f'unknown task "{name[:80]}"{near(name, first)}')
    if edges > MAX_EDGES:
        yield Fault(("tasks",), f"have {edges} dependencies, the limit is {MAX_EDGES}")
    elif cycle := _cycle(upstream):
        yield Fault((*first[cycle[0]], "depends_on"), f"cycle: {_chain(cycle)}")


def upstream_pairs(upstream: Upstream, wanted: set[tuple[str, str]]) -> set[tuple[str, str]] | None:
    """Those pairs of a task and another that is upstream of it; None if a cycle forbids to say.

    A bit for each of the others is handed down the graph, some thousands at once: that takes time in
    proportion to the edges, where a search from each task would take that times the number of pairs.
    """
    try:
        order = list(graphlib.TopologicalSorter(upstream).static_order())
    except graphlib.CycleError:
        return None
    found = {(task, other) for task, other in wanted if other in upstream.get(task, ())}
    asked: dict[str, list[str]] = {}
    for task, other in wanted - found:
        asked.setdefault(other, []).append(task)
    others = iter(asked)
    while chunk := list(islice(others, _CHUNK)):
        bit = {name: 1 << index for index, name in enumerate(chunk)}
        above: dict[str, int] = {}
        for name in order:
            bits = 0
            for parent in upstream[name]:
                bits |= above[parent] | bit.get(parent, 0)
            above[name] = bits
        found |= {(task, other) for other in chunk for task in asked[other] if above[task] & bit[other]}
    return found


def _cycle(upstream: Upstream) -> list[str]:
    """Names along one cycle in the order they would run; the first is also the last."""
    try:
        graphlib.TopologicalSorter(upstream).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []


def _chain(names: list[str]) -> str:
    if len(names) > _MAX_CHAIN:
        names = [*names[: _MAX_CHAIN - 2], f"… {len(names) - _MAX_CHAIN + 1} more …", names[-1]]
    return " → ".join(names)
