"""What a run knows of its tasks: counts by state, kept with every change, and the state that follows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.model.json import JSON
from engine.model.states import FINAL_RUN_STATES, RunState, TaskState

_COUNTED = {
    TaskState.RUNNING: "running",
    TaskState.SUCCEEDED: "succeeded",
    TaskState.FAILED: "failed",
    TaskState.SKIPPED: "skipped",
    TaskState.CANCELLED: "cancelled",
}


@dataclass(frozen=True, slots=True)
class Change:
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
    has_started: bool = False

    @property
    def open(self) -> int:
        return self.total - self.succeeded - self.failed - self.skipped - self.cancelled

    def apply(self, changes: Iterable[Change]) -> list[tuple[int, Change]]:
        """Count `changes`, advance the run's own state; returns all events with their numbers."""
        numbered: list[tuple[int, Change]] = []
        for change in changes:
            if change.source is not change.target:
                self._shift(change.source, -1)
                self._shift(change.target, +1)
            if change.target is TaskState.RUNNING and self.state is RunState.PENDING:
                self.state = RunState.RUNNING
                numbered.append(self._number(Change(self.run_id, "run.started")))
            self.has_started = self.has_started or change.target is TaskState.RUNNING
            numbered.append(self._number(change))
        if self.open and self.state in FINAL_RUN_STATES:
            self.state = RunState.RUNNING if self.has_started else RunState.PENDING
        if not self.open and self.state not in FINAL_RUN_STATES:
            self.state = self._verdict()
            numbered.append(self._number(Change(self.run_id, f"run.{self.state}")))
        return numbered

    def _shift(self, state: TaskState | None, by: int) -> None:
        counter = _COUNTED.get(state) if state is not None else None
        if counter is not None:
            setattr(self, counter, getattr(self, counter) + by)

    def _number(self, change: Change) -> tuple[int, Change]:
        self.event_count += 1
        return self.event_count, change

    def _verdict(self) -> RunState:
        if self.is_cancelling:
            return RunState.CANCELLED
        if self.failed:
            return RunState.FAILED
        return RunState.CANCELLED if self.cancelled else RunState.SUCCEEDED
