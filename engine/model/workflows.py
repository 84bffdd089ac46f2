"""Workflows: named graphs of tasks with parameters, as they are saved. Rules are in `workflow_rules`.

Constructors check nothing, so that one check can tell all that is wrong at once. Lists may be given for
tuples, text for members of enums and priorities, and plain values for parameters that only have a default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engine.errors import Fault, WorkflowError
from engine.model import parameters, shapes
from engine.model.graph import PRIORITY_LEVELS, Priority, Rule
from engine.model.json import JSON
from engine.model.parameters import Param
from engine.model.realtime import RealtimeTask

FORMAT = 1
FUNCTION = "function"  # the kind of tasks that call a registered function


class Mode(StrEnum):
    BATCH = "batch"
    STREAMING = "streaming"


class CallbackState(StrEnum):
    """When a callback runs: once, after the task's last attempt."""

    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"


@dataclass(frozen=True, slots=True)
class Callback:
    state: CallbackState
    function: str
    description: str = ""

    def __post_init__(self) -> None:
        shapes.normalise(self)


@dataclass(frozen=True, slots=True)
class UndoFunction:
    """The function that undoes what a task did, with parameters of its own."""

    function: str
    params: JSON = None


@dataclass(frozen=True, slots=True)
class WorkflowTask:
    """Calls `function`, or is performed by the executor of another `kind`. `timeout_ms` holds per attempt."""

    name: str
    description: str = ""
    function: str | None = None
    kind: str = FUNCTION
    params: JSON = None  # may hold placeholders, see `model.placeholders`
    depends_on: Sequence[str] = ()
    rule: Rule = Rule.ALL_SUCCESS
    condition: str | None = None  # CEL; the task is skipped unless it holds
    # If one of these is None, it is what the function that is called says, or else the engine.
    timeout_ms: int | None = None
    retry_count: int | None = None  # attempts besides the first
    retry_interval_ms: int | None = None  # of the engine: 1 s, 2 s, 4 s …
    queue: str | None = None
    priority: int | None = None
    limits: Mapping[str, int] | None = None  # at most so many tasks of a key run at once
    required_params: Sequence[str] = ()
    result_mapping: Mapping[str, str] = field(default_factory=dict)  # parameter -> field of a result
    compensation: UndoFunction | None = None
    callbacks: Sequence[Callback] = ()
    is_template: bool = False  # creates tasks while it runs

    def __post_init__(self) -> None:
        shapes.normalise(self)
        shapes.drop_repeats(self, "depends_on")
        shapes.drop_repeats(self, "required_params")
        if isinstance(self.priority, str) and self.priority in PRIORITY_LEVELS:
            object.__setattr__(self, "priority", PRIORITY_LEVELS[Priority(self.priority)])


@dataclass(frozen=True, slots=True)
class Workflow:
    name: str
    description: str = ""
    params: Mapping[str, Param | Any] = field(default_factory=dict)
    tasks: Sequence[WorkflowTask] = ()
    realtime_tasks: Sequence[RealtimeTask] = ()
    mode: Mode = Mode.BATCH
    cron: str | None = None
    timezone: str | None = None  # of `cron`; None: the engine's default
    max_concurrent_task: int | None = None  # of all its runs together; None: as many as the workers take
    sub_task_error_tolerance: float = 0.0  # share of a template's tasks that may fail
    transactional: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shapes.normalise(self)
        if isinstance(self.params, Mapping):
            items = self.params.items()
            declared = {name: value if isinstance(value, Param) else Param(value) for name, value in items}
            object.__setattr__(self, "params", declared)

    def effective_params(self, given: Mapping[str, JSON]) -> dict[str, JSON]:
        """Values of one run: those given, then the defaults. Raises `ParamsError`."""
        return parameters.effective(self.params, given)

    def to_json(self) -> dict[str, JSON]:
        """What is stored: the format's number, and all that differs from a default."""
        return {"format": FORMAT, **shapes.to_json(self)}

    @classmethod
    def from_json(cls, document: JSON) -> Workflow:
        """Raises `WorkflowError`, for a document of a newer release as well.

        Unknown keys are refused: to leave out a condition that this release does not know would run what was
        not meant to run. A release that adds a key raises `format` only for documents that use the key.
        """
        found = document.get("format") if isinstance(document, Mapping) else None
        if not isinstance(found, int) or not 1 <= found <= FORMAT:
            newer = isinstance(found, int) and found > FORMAT
            advice = "; a newer release of Task Engine wrote it" if newer else ""
            raise WorkflowError([Fault(("format",), f"is {found!r:.40}, accepted: 1 to {FORMAT}{advice}")])
        faults: list[Fault] = []
        values = {key: value for key, value in document.items() if key != "format"}
        workflow = shapes.from_json(cls, values, faults)
        if workflow is None:
            raise WorkflowError(faults)
        return workflow


def functions_named(definition: JSON) -> set[str]:
    """What the tasks of a stored definition and their compensations call."""
    tasks = definition.get("tasks", []) if isinstance(definition, Mapping) else []
    calls = (call for task in tasks for call in (task, task.get("compensation") or {}))
    return {call["function"] for call in calls if call.get("function")}
