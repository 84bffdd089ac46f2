"""Results of sub-tasks, as the result of the task that added them carries them (contract section 5.8)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from engine.model.json import JSON

_SUCCEEDED = frozenset({"success", "succeeded"})


@dataclass(frozen=True, slots=True)
class SubTaskResult:
    task_id: str
    task_name: str
    status: str
    result: JSON = None
    error: str | None = None

    @property
    def has_succeeded(self) -> bool:
        return self.status.lower() in _SUCCEEDED


def sub_task_results(upstream: Iterable[JSON]) -> list[SubTaskResult]:
    """Of every upstream result that has `subtask_results`, in order."""
    return [
        _result(entry)
        for result in upstream
        if isinstance(result, dict) and isinstance(result.get("subtask_results"), list)
        for entry in result["subtask_results"]
        if isinstance(entry, dict)
    ]


def values(results: Iterable[SubTaskResult], field: str) -> list[Any]:
    """`field` of each result that succeeded and has it."""
    return [
        each.result[field]
        for each in results
        if each.has_succeeded and isinstance(each.result, dict) and field in each.result
    ]


def _result(entry: dict[str, Any]) -> SubTaskResult:
    error = entry.get("error")
    return SubTaskResult(
        task_id=str(entry.get("task_id", "")),
        task_name=str(entry.get("task_name", "")),
        status=str(entry.get("status", "")),
        result=entry.get("result"),
        error=None if error in (None, "") else str(error),
    )
