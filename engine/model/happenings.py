"""Events of a run as callbacks and plug-ins are told of them, with the task and attempt they are about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from engine.model.json import JSON
from engine.model.states import RunState


@dataclass(frozen=True, slots=True)
class Happening:
    """One event. What is about a task is None for events of the run itself.

    `outcome`, `result` and `error` are those of the attempt, which may have ended after the event. A result
    that is larger than who asked wants to read is None, with its size.
    """

    number: int
    kind: str
    at: datetime
    task_id: int | None = None
    name: str | None = None
    task_kind: str | None = None
    params: JSON = None  # as the task was submitted, before references were resolved
    attempt: int | None = None
    outcome: str | None = None
    result: JSON = None
    result_size: int | None = None  # its characters as JSON
    error: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """The run of a workflow whose events are told, as it is now. `events` is the number of the newest one."""

    run_id: int
    workflow_id: str
    workflow_name: str
    version: int
    state: RunState
    created_at: datetime
    events: int
    total: int
    succeeded: int
    failed: int
    error: str | None = None  # that of the first task that failed, where it was asked for
