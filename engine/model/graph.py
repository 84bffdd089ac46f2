"""Graphs as submitted, and the rules they must meet. Validation is iterative: depth is no limit."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from engine.errors import GraphError, TooLarge
from engine.model.json import JSON
from engine.model.retry import ONCE, RetryPolicy

MAX_TASKS = 100_000
MAX_EDGES = 1_000_000
MAX_NAME = 200
MAX_LIMITS = 8  # of one task
MAX_AT_MOST = 1_000_000
DEFAULT_QUEUE = "default"
EVERY_TASK = "*"  # the limit that holds for all tasks; operators set it, tasks cannot name it


class Reach(StrEnum):
    """Whom the end of a task concerns besides itself. Known at submit, so that ending it need not look."""

    ITSELF = "itself"  # nobody waits for it
    RELEASE = "release"  # others may become available
    PARENT = "parent"  # likewise; and the task that added it, which may be claimed before, waits for it
    SKIP = "skip"  # its success can skip others: by its branch, or where a failure is awaited
    SAGA = "saga"  # likewise; and with it a run may end that has to be compensated

    @property
    def can_skip(self) -> bool:
        return self is Reach.SKIP or self is Reach.SAGA


class Rule(StrEnum):
    """When a task settles, given how its upstream tasks ended. One that was skipped because of a failure
    counts as failed."""

    ALL_SUCCESS = "all_success"  # run when every upstream succeeded; skip as soon as one did not
    ALL_DONE = "all_done"  # run when every upstream is final, whatever happened to them
    ONE_FAILED = "one_failed"  # run as soon as one upstream failed; skip if all ended without a failure
    NONE_FAILED = "none_failed"  # run when every upstream is final and none failed; others may be skipped
    ALWAYS = "always"  # another name for all_done; reads better on clean-up tasks


class Priority(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


PRIORITY_LEVELS = {Priority.LOW: -10, Priority.MEDIUM: 0, Priority.HIGH: 10, Priority.URGENT: 20}
MIN_PRIORITY, MAX_PRIORITY = -1_000, 1_000


def priority_level(value: int | str) -> int:
    """The integer behind a priority: higher is claimed first. Raises `GraphError`."""
    if isinstance(value, str):
        try:
            return PRIORITY_LEVELS[Priority(value)]
        except ValueError:
            raise GraphError(
                f'unknown priority "{value}" (accepted: {", ".join(Priority)} or an integer)'
            ) from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise GraphError(f"a priority is an integer or one of {', '.join(Priority)}, got {value!r:.80}")
    if not MIN_PRIORITY <= value <= MAX_PRIORITY:
        raise GraphError(f"priority {value} is outside {MIN_PRIORITY} to {MAX_PRIORITY}")
    return value


@dataclass(frozen=True, slots=True)
class Dependency:
    """An edge as its child names it: taken if the upstream succeeded and `condition` equals its branch."""

    name: str
    condition: str | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many tasks that name this key run at once, anywhere. The newest number given counts."""

    key: str
    at_most: int


@dataclass(frozen=True, slots=True)
class Compensation:
    """How what a task did is undone if its run fails: a task of another run, see `model.sagas`."""

    kind: str
    params: JSON = None
    timeout_ms: int | None = None
    retry: RetryPolicy = ONCE


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task as submitted. `name` is unique within its graph; `timeout_ms` holds per attempt."""

    name: str
    kind: str
    params: JSON = None
    depends_on: tuple[Dependency, ...] = ()
    rule: Rule = Rule.ALL_SUCCESS
    queue: str = DEFAULT_QUEUE
    priority: int = 0
    available_at: datetime | None = None  # not claimed before; counted from now if it has passed
    delay_ms: int = 0  # wait this long after the task is unblocked; not along with `available_at`
    timeout_ms: int | None = None
    retry: RetryPolicy = ONCE
    client: JSON = None  # what the submitting contract wants back; the core never looks inside
    inputs: JSON = None  # what each attempt has to put together first: see `model.inputs`
    compensation: Compensation | None = None
    limits: tuple[Limit, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """Tasks and edges of one run, with the run's own name, labels and origin."""

    tasks: tuple[TaskSpec, ...]
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """A validated graph by position: `edges` are (parent, child, condition), without repeats."""

    graph: Graph
    edges: list[tuple[int, int, str | None]]
    waiting_on: list[int]  # distinct upstream tasks of each task

    @property
    def is_saga(self) -> bool:
        """Some task has a compensation."""
        return any(task.compensation is not None for task in self.graph.tasks)


def plan(graph: Graph) -> Plan:
    """Validate `graph` and resolve its edges. Raises `GraphError` or `TooLarge`; the first failure wins.

    The order of the checks and their words are ExecGo's (contract section 2.1), as far as it has them.
    """
    tasks = graph.tasks
    if not tasks:
        raise GraphError("task graph is empty")
    check_count(len(tasks))
    position = _positions(tasks)
    edges = _edges(tasks, position)
    children: list[list[int]] = [[] for _ in tasks]
    waiting_on = [0] * len(tasks)
    for parent, child, _ in edges:
        children[parent].append(child)
        waiting_on[child] += 1
    if edges:
        _refuse_cycles(children, waiting_on)
    return Plan(graph, edges, waiting_on)


def check_count(tasks: int) -> None:
    """Raises `TooLarge`. Asked early by those who make specs, since many of them take much memory."""
    if tasks > MAX_TASKS:
        raise TooLarge(f"task graph has {tasks} tasks, the limit is {MAX_TASKS}")


def check_name(name: str, what: str) -> None:
    """Names from clients: 1 to 200 characters, none of them a control character."""
    if not isinstance(name, str):
        raise GraphError(f"{what} is a text, got {type(name).__name__}")
    if not name.strip():
        raise GraphError(f"{what} is required")
    if len(name) > MAX_NAME:
        raise GraphError(f"{what} has {len(name)} characters, the limit is {MAX_NAME}")
    if not name.isprintable():
        raise GraphError(f"{what} {name[:40]!r} contains {unprintable(name)}")


def unprintable(text: str) -> str:
    """What cannot be seen in a text that is not printable."""
    found = next(character for character in text if not character.isprintable())
    name = unicodedata.name(found, "control character" if unicodedata.category(found) == "Cc" else "")
    return f"U+{ord(found):04X}{name and f' ({name.lower()})'}, which is not printable"


def _positions(tasks: Sequence[TaskSpec]) -> dict[str, int]:
    position: dict[str, int] = {}
    for index, task in enumerate(tasks):
        check_name(task.name, "task id")
        if not task.kind.strip():
            raise GraphError(f'task "{task.name}": type is required')
        if task.available_at is not None and task.delay_ms:  # when the run is retried, one would be forgotten
            raise GraphError(f'task "{task.name}": available_at and delay_ms cannot be given together')
        if task.limits:
            _check_limits(task)
        if position.setdefault(task.name, index) != index:
            raise GraphError(f'duplicate task id: "{task.name}"')
    return position


def _check_limits(task: TaskSpec) -> None:
    if len(task.limits) > MAX_LIMITS:
        raise GraphError(
            f'task "{task.name}" has {len(task.limits)} limits, at most {MAX_LIMITS} are possible'
        )
    for limit in task.limits:
        check_name(limit.key, f'limit of task "{task.name}"')
        if limit.key == EVERY_TASK:
            raise GraphError(f'task "{task.name}": the limit "*" holds for every task; operators set it')
        if not 1 <= limit.at_most <= MAX_AT_MOST:
            raise GraphError(
                f'limit "{limit.key}" of task "{task.name}": {limit.at_most} is outside 1 to {MAX_AT_MOST}'
            )
    if len({limit.key for limit in task.limits}) < len(task.limits):
        raise GraphError(f'task "{task.name}" names the same limit twice')


def _edges(tasks: Sequence[TaskSpec], position: dict[str, int]) -> list[tuple[int, int, str | None]]:
    edges: dict[tuple[int, int], str | None] = {}
    for child, task in enumerate(tasks):
        if not task.depends_on:
            continue
        for dependency in task.depends_on:
            parent = position.get(dependency.name)
            if parent is None:
                raise GraphError(f'task "{task.name}" depends on unknown task "{dependency.name}"')
            if parent == child:
                raise GraphError(f'task "{task.name}" cannot depend on itself')
            # A repeated dependency is one edge: counting it twice would leave the child waiting for ever.
            if edges.setdefault((parent, child), dependency.condition) != dependency.condition:
                raise GraphError(
                    f'task "{task.name}" depends on "{dependency.name}" under two different conditions'
                )
        if len(edges) > MAX_EDGES:
            raise TooLarge(f"task graph has more than {MAX_EDGES} edges")
    return [(parent, child, condition) for (parent, child), condition in edges.items()]


def _refuse_cycles(children: list[list[int]], waiting_on: list[int]) -> None:
    """Kahn's algorithm: what can never become ready is on or behind a cycle."""
    open_parents = list(waiting_on)
    ready = [index for index, count in enumerate(open_parents) if count == 0]
    seen = 0
    while ready:
        seen += 1
        for child in children[ready.pop()]:
            open_parents[child] -= 1
            if open_parents[child] == 0:
                ready.append(child)
    if seen != len(children):
        raise GraphError("cycle detected in task graph")
