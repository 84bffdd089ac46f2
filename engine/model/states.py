"""The state machine, in one place.

The guarded UPDATE, the CHECK constraints, the index predicates, the diagram in the README and the
every-state × every-move test are all derived from `TRANSITIONS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TaskState(StrEnum):
    """Where a task is. Waiting for a time is `available` with `available_at` in the future."""

    BLOCKED = "blocked"  # waits for upstream tasks
    AVAILABLE = "available"  # a worker may claim it once `available_at` has passed
    HELD = "held"  # would be available, but its run is paused
    RUNNING = "running"  # a worker holds its lease
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # its settlement rule can no longer be met
    CANCELLED = "cancelled"


FINAL_TASK_STATES = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED})


class RunState(StrEnum):
    """Where a run is. `pending` until its first task is claimed."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_RUN_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class Move(StrEnum):
    """A permitted change of a task's state. The value is the kind of the event row it writes."""

    UNBLOCK = "unblocked"
    UNBLOCK_HELD = "unblocked_held"
    HOLD = "held"
    RESUME = "resumed"
    CLAIM = "started"
    SUCCEED = "succeeded"
    FAIL = "failed"
    RETRY = "retried"
    RETRY_HELD = "retried_held"
    AWAIT = "awaiting"  # it has done its part, and waits for the tasks that it added
    SKIP = "skipped"
    DECLINE = "declined"  # its condition does not hold
    CANCEL = "cancelled"
    RERUN = "rerun"


@dataclass(frozen=True, slots=True)
class Transition:
    sources: frozenset[TaskState]
    target: TaskState


def _from(*sources: TaskState, to: TaskState) -> Transition:
    return Transition(frozenset(sources), to)


TRANSITIONS: dict[Move, Transition] = {
    Move.UNBLOCK: _from(TaskState.BLOCKED, to=TaskState.AVAILABLE),
    Move.UNBLOCK_HELD: _from(TaskState.BLOCKED, to=TaskState.HELD),
    Move.HOLD: _from(TaskState.AVAILABLE, to=TaskState.HELD),
    Move.RESUME: _from(TaskState.HELD, to=TaskState.AVAILABLE),
    Move.CLAIM: _from(TaskState.AVAILABLE, to=TaskState.RUNNING),
    Move.SUCCEED: _from(TaskState.RUNNING, to=TaskState.SUCCEEDED),
    Move.FAIL: _from(TaskState.RUNNING, to=TaskState.FAILED),
    Move.RETRY: _from(TaskState.RUNNING, to=TaskState.AVAILABLE),
    Move.RETRY_HELD: _from(TaskState.RUNNING, to=TaskState.HELD),
    Move.AWAIT: _from(TaskState.RUNNING, to=TaskState.BLOCKED),
    Move.SKIP: _from(TaskState.BLOCKED, to=TaskState.SKIPPED),
    Move.DECLINE: _from(TaskState.RUNNING, to=TaskState.SKIPPED),
    Move.CANCEL: _from(
        TaskState.BLOCKED, TaskState.AVAILABLE, TaskState.HELD, TaskState.RUNNING, to=TaskState.CANCELLED
    ),
    Move.RERUN: _from(TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED, to=TaskState.BLOCKED),
}


def mermaid() -> str:
    """The task state diagram, as the README shows it."""
    lines = ["stateDiagram-v2", "    [*] --> blocked", "    [*] --> available"]
    for move, transition in TRANSITIONS.items():
        lines += [
            f"    {source} --> {transition.target}: {move.name.lower()}"
            for source in TaskState
            if source in transition.sources
        ]
    return "\n".join(lines)
