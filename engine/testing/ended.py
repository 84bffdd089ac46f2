"""A run as a test looks at it: how it ended, and why not otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.errors import NotFound
from engine.model.json import JSON
from engine.model.records import Attempt, Event, LogLine, Run, Task
from engine.model.states import RunState, TaskState
from engine.operations import runs
from engine.operations import tasks as operations
from engine.store.database import Database

_ALL = 1_000_000
_SHOWN_LINES = 30  # of the log of a failed attempt


class TaskFailed(AssertionError):
    """A test wanted a result that there is none of. The message has the task's error and its traceback."""


@dataclass(frozen=True, slots=True, repr=False)
class Ended:
    """A run with its tasks, attempts and log lines by name of the task, and its events in order.

    `undo` is the run that undid what this one did, if it is a saga that failed.
    """

    run: Run
    tasks: dict[str, Task]
    events: list[Event] = field(default_factory=list)
    tries: dict[str, list[Attempt]] = field(default_factory=dict)
    lines: list[LogLine] = field(default_factory=list)
    undo: Ended | None = None

    @property
    def state(self) -> RunState:
        return self.run.state

    @property
    def states(self) -> dict[str, str]:
        """State of each task by name."""
        return {name: str(task.state) for name, task in self.tasks.items()}

    def result(self, name: str) -> JSON:
        """What the last attempt of a task returned.

        Raises `NotFound` if it never ran, and `TaskFailed` if it failed and left no result.
        """
        task = self.tasks.get(name)
        if task is None or task.last is None:
            names = ", ".join(self.tasks)
            raise NotFound(f"no result of task {name!r}: it never ran (tasks: {names}){self._because()}")
        if task.state is TaskState.FAILED and task.last.result is None:
            raise TaskFailed(self._failure(task))
        return task.last.result

    def attempts(self, name: str) -> list[Attempt]:
        """All attempts of a task, in order. Empty if it never ran."""
        return self.tries.get(name, [])

    def logs(self, name: str | None = None) -> list[str]:
        """What a task, or all of them, printed and logged, line by line."""
        return [line.text for line in self.lines if name in (None, line.task_name)]

    def kinds(self, name: str | None = None) -> list[str]:
        """What happened, in the words of the events: of one task, or of the run itself and all of them."""
        return [event.kind for event in self.events if name in (None, event.task_name)]

    def check(self) -> Ended:
        """The same, if the run has succeeded. Raises `TaskFailed` that shows why it did not."""
        if self.state is not RunState.SUCCEEDED:
            raise TaskFailed(str(self))
        return self

    def __str__(self) -> str:
        return f"run {self.run.id} is {self.state}{self._because()}"

    def __repr__(self) -> str:
        return f"<{self}>"

    def _because(self) -> str:
        failed = [task for task in self.tasks.values() if task.state is TaskState.FAILED]
        return "".join(f"\n\n{self._failure(task)}" for task in failed)

    def _failure(self, task: Task) -> str:
        error = (task.last.error if task.last is not None else None) or {}
        lines = [
            line.text
            for line in self.lines
            if line.task_id == task.id and line.attempt == task.attempt and line.stream != "stdout"
        ]
        head = f"task {task.name!r} failed at attempt {task.attempt}: {error.get('message', 'no error')}"
        return "\n    ".join((head, *lines[-_SHOWN_LINES:]))


async def ended(database: Database, run: Run, undo: Ended | None = None) -> Ended:
    """Everything about a run, read at once; small runs are meant."""
    tasks = {task.name: task for task in await runs.tasks(database, run.id, limit=_ALL)}
    return Ended(
        run=run,
        tasks=tasks,
        events=await runs.events(database, run.id, limit=_ALL),
        tries={name: await operations.attempts(database, task.id) for name, task in tasks.items()},
        lines=await runs.logs(database, run.id, limit=_ALL),
        undo=undo,
    )
