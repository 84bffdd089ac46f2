"""What a run knows of its tasks: counts by state, kept with every change, and the state that follows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.model.json import JSON
from engine.model.states import FINAL_RUN_STATES, RunState, TaskState

_COUNTED = {
    TaskState.RUNNING: "running",
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.SKIPPED: "skipped",
    TaskState.CANCELLED: "cancelled",
}


class Change(NamedTuple):
    """One event to come. `source` and `target` are equal where no task changed its state."""

    run_id: int
    kind: str
    task_id: int | None = None
    attempt: int | None = None
    source: TaskState | None = None
    target: TaskState | None = None
    detail: JSON = None


@dataclass(slots=True)
class Tally:
    """The counters of one run row, under its lock."""

    run_id: int
    state: RunState
    is_cancelling: bool
    event_count: int
    total: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    cancelled: int = 0
    awaited: int = 0  # of failed and cancelled: sub-tasks, whose sum is up to the task that awaits them
    has_started: bool = False

    @property
    def open(self) -> int:
        return self.total - self.succeeded - self.failed - self.skipped - self.cancelled

    def apply(self, changes: Sequence[Change]) -> list[tuple[int, Change]]:
        """Count `changes`, advance the run's own state; returns all events with their numbers."""
        moves = Counter((change.source, change.target) for change in changes)
        for (source, target), times in moves.items():
            self._shift(source, -times)
            self._shift(target, +times)
        events = list(changes)
        if any(target is TaskState.RUNNING for _, target in moves):
            self.has_started = True
            if self.state is RunState.PENDING:
                self.state = RunState.RUNNING
                events.insert(0, Change(self.run_id, "run.started"))
        if self.open and self.state in FINAL_RUN_STATES:
            self.state = RunState.RUNNING if self.has_started else RunState.PENDING
        if not self.open and self.state not in FINAL_RUN_STATES:
            self.state = self._verdict()
            events.append(Change(self.run_id, f"run.{self.state}"))
        first, self.event_count = self.event_count + 1, self.event_count + len(events)
        return list(enumerate(events, first))

    def _shift(self, state: TaskState | None, by: int) -> None:
        counter = _COUNTED.get(state) if state is not None else None
        if counter is not None:
            setattr(self, counter, getattr(self, counter) + by)

    def _verdict(self) -> RunState:
        if self.is_cancelling:
            return RunState.CANCELLED
        if self.failed + self.cancelled == self.awaited:
            return RunState.SUCCEEDED
        return RunState.FAILED if self.failed else RunState.CANCELLED
