"""Sub-tasks: what a task adds while it runs and is over before the task is (contract section 5.8). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.model.json import JSON, MAX_DEPTH, Unstorable, check_storable
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.states import FINAL_TASK_STATES, TaskState

MOST_BYTES = 4 * 1024 * 1024  # of what is gathered: half of what a result may have
_MOST_ERROR = 1_000  # characters of the error of each
_NAMED = 5  # of those that failed, in the error
_WORDS = {TaskState.SUCCEEDED: "Success"}


@dataclass(frozen=True, slots=True)
class SubTask:
    """One of them, as it ended. A result that `is_large` was not read."""

    task_id: int
    name: str
    state: TaskState
    result: JSON = None
    error: Mapping[str, Any] | None = None
    is_large: bool = False

    @property
    def is_over(self) -> bool:
        return self.state in FINAL_TASK_STATES


@dataclass(frozen=True, slots=True)
class Returned:
    """What a task itself came to before it waited."""

    result: JSON = None
    branch: str | None = None

    def to_json(self) -> JSON:
        return {"result": self.result, "branch": self.branch}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Returned:
        return cls(document.get("result"), document.get("branch"))


def summed_up(returned: Returned, sub_tasks: Sequence[SubTask], tolerance: float) -> Outcome:
    """How a task ends whose sub-tasks have ended: well if at most the share `tolerance` did not succeed."""
    result = {**_original(returned.result), **_gathered(sub_tasks)}
    failed = [each.name for each in sub_tasks if each.state is not TaskState.SUCCEEDED]
    if not failed or len(failed) / len(sub_tasks) <= tolerance:
        return Succeeded(result, returned.branch)
    names = ", ".join(failed[:_NAMED]) + (", …" if len(failed) > _NAMED else "")
    message = f"{len(failed)} of {len(sub_tasks)} sub-tasks did not succeed: {names}"
    return Failed(message, code="sub_tasks_failed", source="scheduler", is_permanent=True, result=result)


def _original(result: JSON) -> dict[str, Any]:
    if isinstance(result, Mapping):
        return dict(result)
    return {} if result is None else {"original_result": result}


def _gathered(sub_tasks: Sequence[SubTask]) -> dict[str, Any]:
    """In the contract's words. What is beyond what a result may have is left out, and that is said: results
    first, then whole entries."""
    entries: list[dict[str, Any]] = []
    left, left_out = MOST_BYTES, 0
    for each in sub_tasks:
        entry, lacks_result = _entry(each), each.is_large
        if each.result is not None:
            full = {**entry, "result": each.result}
            if _is_shallow(each.result) and _size(full) <= left:
                entry = full
            else:
                lacks_result = True
        left_out += lacks_result
        left -= _size(entry)
        if left >= 0:
            entries.append(entry)
    told = {
        "subtask_results": entries,
        "subtask_count": len(sub_tasks),
        "all_subtasks_succeeded": all(each.state is TaskState.SUCCEEDED for each in sub_tasks),
    }
    return {**told, "subtask_results_left_out": left_out} if left_out else told


def _entry(each: SubTask) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "task_id": str(each.task_id),
        "task_name": each.name,
        "status": _WORDS.get(each.state, each.state.capitalize()),
    }
    if each.error:
        message = each.error.get("message")
        entry["error"] = message[:_MOST_ERROR] if isinstance(message, str) else message
    return entry


def _size(entry: Mapping[str, Any]) -> int:
    return len(msgspec.json.encode(entry))


def _is_shallow(result: JSON) -> bool:
    """Whether it can be stored as a part of the sum, three levels down."""
    try:
        check_storable(result, max_depth=MAX_DEPTH - 3)
    except Unstorable:
        return False
    return True
