"""What the tasks before a task returned, as it is handed to the task."""

from __future__ import annotations

from collections.abc import Iterable

from engine.model.json import JSON


class Results(dict[str, JSON]):
    """By task name, in the order of submission. `names` are those of the tasks by id, as text."""

    def __init__(self, found: Iterable[tuple[int, str, JSON]] = ()) -> None:
        rows = list(found)
        super().__init__((name, result) for _, name, result in rows)
        self.names = {str(task_id): name for task_id, name, _ in rows}
