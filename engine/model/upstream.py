"""What the tasks before a task returned, as it is handed to the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.model.json import JSON


class Result(NamedTuple):
    """Of a task that is over."""

    task_id: int
    name: str
    result: JSON
    has_succeeded: bool = True


class Results(dict[str, JSON]):
    """Of those that succeeded, by task name, in the order of submission. `names` are those of the tasks by
    id, as text; `failed` what others have nevertheless: a sum of their sub-tasks."""

    def __init__(self, found: Iterable[Result] = ()) -> None:
        rows = list(found)
        super().__init__((row.name, row.result) for row in rows if row.has_succeeded)
        self.failed = {row.name: row.result for row in rows if not row.has_succeeded}
        self.names = {str(row.task_id): row.name for row in rows}
