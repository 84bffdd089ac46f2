"""What a run must look like, in plain Python: written from the rules, without the engine's code or its SQL.

States are plain words. `settle` knows nothing of waves and counters: it looks at every blocked task again
until nothing changes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

FINAL = {"succeeded", "failed", "skipped", "cancelled"}
FINAL_RUN = {"succeeded", "failed", "cancelled"}


class Refused(Exception):
    """The state of the run forbids the action."""


@dataclass
class ModelTask:
    name: str
    rule: str
    parents: dict[str, str | None]  # name → condition
    max_attempts: int = 1
    max_crashes: int = 3
    state: str = "blocked"
    is_below_failure: bool = False  # skipped for that
    branch: str | None = None
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    is_cancelling: bool = False
    added_by: str | None = None
    words: list[str] = field(default_factory=list)  # outcomes of its attempts
    events: list[str] = field(default_factory=list)


class ModelRun:
    def __init__(self, tasks: list[ModelTask]) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.state = "pending"
        self.is_cancelling = False
        self.has_started = False
        self.events = ["run.submitted"]
        self.totals: Counter[str] = Counter({"submitted:noop": len(tasks)})
        for task in tasks:
            if not task.parents:
                task.state = "available"

    # --- what can be seen

    def waiting_on(self, task: ModelTask) -> int:
        return sum(self.tasks[name].state not in FINAL for name in task.parents)

    def failed_on(self, task: ModelTask) -> int:
        return sum(self._counts_as_failed(self.tasks[name]) for name in task.parents)

    def missed_on(self, task: ModelTask) -> int:
        return sum(self._is_missed(self.tasks[name], wanted) for name, wanted in task.parents.items())

    @staticmethod
    def _counts_as_failed(parent: ModelTask) -> bool:
        return parent.state == "failed" or (parent.state == "skipped" and parent.is_below_failure)

    @classmethod
    def _is_missed(cls, parent: ModelTask, wanted: str | None) -> bool:
        if parent.state == "succeeded":
            return wanted is not None and wanted != parent.branch
        return parent.state in ("skipped", "cancelled") and not cls._counts_as_failed(parent)

    def named(self, *states: str) -> list[ModelTask]:
        return [task for task in self.tasks.values() if task.state in states]

    # --- what happens to tasks

    def claim(self, task: ModelTask) -> None:
        assert task.state == "available"
        assert self.state in ("pending", "running"), f"started in a {self.state} run"
        assert not self.is_cancelling
        if self.state == "pending":
            self.state = "running"
            self.events.append("run.started")
        self.has_started = True
        task.attempt += 1
        task.is_cancelling = False
        self._change(task, "running", "started")
        self.totals["started"] += 1

    def succeed(self, task: ModelTask, branch: str | None) -> None:
        task.words.append("succeeded")
        task.branch = branch
        self._change(task, "succeeded", "succeeded")
        self._settle()

    def fail(self, task: ModelTask, *, is_permanent: bool) -> None:
        task.words.append("failed")
        task.failures += 1
        if is_permanent or task.failures >= task.max_attempts:
            self._change(task, "failed", "failed")
            self._settle()
        else:
            self._try_again(task)

    def crash(self, task: ModelTask) -> None:
        task.words.append("crashed")
        task.crashes += 1
        if task.crashes >= task.max_crashes and not task.is_cancelling:
            self._change(task, "failed", "failed")
            self._settle()
        else:
            self._try_again(task)

    def release(self, task: ModelTask) -> None:
        task.words.append("released")
        self._try_again(task)

    def stop(self, task: ModelTask) -> None:
        """The attempt ended because it was told to."""
        task.words.append("cancelled")
        self._change(task, "cancelled", "cancelled")
        self._settle()

    def spawn(self, parent: ModelTask, children: list[ModelTask]) -> None:
        if self.is_cancelling:
            raise Refused
        self.events.append("extended")
        self.totals["submitted:noop"] += len(children)
        for child in children:
            child.added_by = parent.name
            self.tasks[child.name] = child
            if not child.parents:
                child.state = "available"
                if self.state == "paused":
                    self._change(child, "held", "held")

    # --- what happens to the run

    def hold(self) -> None:
        if self.state in FINAL_RUN:
            raise Refused
        if self.state == "paused":
            return
        self.state = "paused"
        self.events.append("run.paused")
        for task in self.named("available"):
            self._change(task, "held", "held")

    def resume(self) -> None:
        if self.state in FINAL_RUN:
            raise Refused
        if self.state != "paused":
            return
        self.state = "running" if self.has_started else "pending"
        self.events.append("run.resumed")
        for task in self.named("held"):
            self._change(task, "available", "resumed")

    def cancel(self) -> None:
        if self.state in ("succeeded", "failed"):
            raise Refused
        if self.state == "cancelled" or self.is_cancelling:
            return
        self.is_cancelling = True
        self.events.append("run.cancelling")
        for task in self.named("blocked", "available", "held"):
            self._change(task, "cancelled", "cancelled")
        for task in self.named("running"):
            task.is_cancelling = True
        self._settle()

    def cancel_task(self, task: ModelTask) -> None:
        if task.state == "running":
            task.is_cancelling = True
        elif task.state in FINAL:
            if task.state != "cancelled":
                raise Refused
        else:
            self._change(task, "cancelled", "cancelled")
            self._settle()

    def retry(self) -> None:
        if self.state not in ("failed", "cancelled"):
            raise Refused
        self.is_cancelling = False
        self.events.append("run.retried")
        self.state = "running" if self.has_started else "pending"
        for task in self.named("failed", "skipped", "cancelled"):
            task.failures = task.crashes = 0
            task.is_cancelling = False
            self._change(task, "blocked", "rerun")
        self._settle()

    # --- rules

    def _try_again(self, task: ModelTask) -> None:
        if task.is_cancelling:  # after a cancel nothing starts anew
            self._change(task, "cancelled", "cancelled")
            self._settle()
        elif self.state == "paused":
            self._change(task, "held", "retried_held")
            self.totals["retried"] += 1
        else:
            self._change(task, "available", "retried")
            self.totals["retried"] += 1

    def _settle(self) -> None:
        while any(self._settle_one(task) for task in self._below_failures_first()):
            pass
        if not any(task.state not in FINAL for task in self.tasks.values()):
            self.state = self._verdict()
            self.events.append(f"run.{self.state}")

    def _below_failures_first(self) -> list[ModelTask]:
        return sorted(self.named("blocked"), key=lambda task: not self.failed_on(task))

    def _settle_one(self, task: ModelTask) -> bool:
        if self._is_due(task) == "skip":
            task.is_below_failure = self.failed_on(task) > 0
            self._change(task, "skipped", "skipped")
        elif self._is_due(task) == "run" and self.state == "paused":
            self._change(task, "held", "unblocked_held")
        elif self._is_due(task) == "run":
            self._change(task, "available", "unblocked")
        else:
            return False
        return True

    def _is_due(self, task: ModelTask) -> str:
        waiting, failed, missed = self.waiting_on(task), self.failed_on(task), self.missed_on(task)
        if not task.parents:
            return "run"
        if task.rule == "all_success" and (failed or missed):
            return "skip"
        if task.rule == "none_failed" and failed:
            return "skip"
        if task.rule == "one_failed":
            return "run" if failed else "wait" if waiting else "skip"
        return "wait" if waiting else "run"

    def _verdict(self) -> str:
        if self.is_cancelling:
            return "cancelled"
        if self.named("failed"):
            return "failed"
        return "cancelled" if self.named("cancelled") else "succeeded"

    def _change(self, task: ModelTask, state: str, event: str) -> None:
        if state in FINAL:
            self.totals[state] += 1
        task.state = state
        task.events.append(event)
