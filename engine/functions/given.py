"""What a function was given: its parameters, and what the tasks before it returned (contract section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from engine.errors import InvalidArguments
from engine.functions.subtasks import SubTaskResult, sub_task_results, values
from engine.model.json import JSON
from engine.model.upstream import Results

T = TypeVar("T")

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off", ""})


class Given:
    """Reads of parameters and upstream results. The typed ones convert text, and numbers to text.

    What cannot be converted raises `InvalidArguments`, which fails the task for good.
    """

    params: Mapping[str, JSON]

    # --- parameters

    def get_param(self, key: str, default: JSON = None) -> JSON:
        return self.params.get(key, default)

    def has_param(self, key: str) -> bool:
        return key in self.params

    def must_get_param(self, key: str) -> JSON:
        """Raises `InvalidArguments` if the parameter is missing."""
        if key not in self.params:
            raise _unfit(key, "missing")
        return self.params[key]

    def get_param_string(self, key: str, default: str = "") -> str:
        return _converted(self.params, key, default, to_string, "a text")

    def get_param_int(self, key: str, default: int = 0) -> int:
        return _converted(self.params, key, default, to_int, "an integer")

    def get_param_float(self, key: str, default: float = 0.0) -> float:
        return _converted(self.params, key, default, to_float, "a number")

    def get_param_bool(self, key: str, default: bool = False) -> bool:
        return _converted(self.params, key, default, to_bool, "true or false")

    # --- upstream results

    def get_all_upstream_results(self) -> dict[str, JSON]:
        """Results of the direct dependencies that succeeded, by task name."""
        raise NotImplementedError

    def get_upstream_result(self, task: str) -> JSON:
        """Result of one direct dependency, by its name or id; None if it did not succeed, or is none."""
        results = self.get_all_upstream_results()
        if task not in results and isinstance(results, Results):
            task = results.names.get(task, task)
        return results.get(task)

    def get_upstream_value(self, task: str, field: str, default: JSON = None) -> JSON:
        return self._fields(task).get(field, default)

    def get_upstream_string(self, task: str, field: str, default: str = "") -> str:
        return _converted(self._fields(task), field, default, to_string, "a text", task)

    def get_upstream_int(self, task: str, field: str, default: int = 0) -> int:
        return _converted(self._fields(task), field, default, to_int, "an integer", task)

    def get_upstream_string_slice(self, task: str, field: str) -> list[str]:
        """A list of texts; empty if there is none. A single value becomes a list of one."""
        return _converted(self._fields(task), field, [], _to_strings, "a list of texts", task)

    def _fields(self, task: str) -> Mapping[str, JSON]:
        result = self.get_upstream_result(task)
        return result if isinstance(result, dict) else {}

    # --- results of sub-tasks, which the task that added them carries

    def get_sub_task_results(self, task: str | None = None) -> list[SubTaskResult]:
        """Of one direct dependency, or of all; also of one that failed because of them."""
        upstream = self.get_all_upstream_results()
        failed = upstream.failed if isinstance(upstream, Results) else {}
        every = {**upstream, **failed}
        return sub_task_results(every.values() if task is None else [every.get(task)])

    def get_successful_sub_task_results(self, task: str | None = None) -> list[SubTaskResult]:
        return [each for each in self.get_sub_task_results(task) if each.has_succeeded]

    def get_failed_sub_task_results(self, task: str | None = None) -> list[SubTaskResult]:
        return [each for each in self.get_sub_task_results(task) if not each.has_succeeded]

    def all_sub_tasks_succeeded(self, task: str | None = None) -> bool:
        """Also if there were none."""
        return not self.get_failed_sub_task_results(task)

    def get_sub_task_count(self, task: str | None = None) -> int:
        return len(self.get_sub_task_results(task))

    def extract_from_sub_tasks(self, field: str, task: str | None = None) -> list[JSON]:
        """`field` of every sub-task's result that has it, of those that succeeded."""
        return values(self.get_sub_task_results(task), field)

    def extract_maps_from_sub_tasks(self, field: str, task: str | None = None) -> list[dict[str, JSON]]:
        return [value for value in self.extract_from_sub_tasks(field, task) if isinstance(value, dict)]

    def extract_strings_from_sub_tasks(self, field: str, task: str | None = None) -> list[str]:
        return [value for value in self.extract_from_sub_tasks(field, task) if isinstance(value, str)]


def to_string(value: JSON) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError


def to_int(value: JSON) -> int:
    number = value if isinstance(value, int) else to_float(value)
    if number != int(number):
        raise ValueError
    return int(number)


def to_float(value: JSON) -> float:
    if isinstance(value, str):
        value = float(value)
    if isinstance(value, int | float):
        return float(value)
    raise ValueError


def to_bool(value: JSON) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, dict | list) or word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _to_strings(value: JSON) -> list[str]:
    return [to_string(item) for item in value] if isinstance(value, list) else [to_string(value)]


def _converted(
    values: Mapping[str, JSON],
    key: str,
    default: T,
    convert: Callable[[Any], T],
    expected: str,
    task: str | None = None,
) -> T:
    value = values.get(key)
    if value is None:
        return default
    try:
        return convert(value)
    except (ValueError, OverflowError):
        path = key if task is None else f"result of {task}: {key}"
        raise _unfit(path, f"expected {expected}, got {type(value).__name__}") from None


def _unfit(path: str, message: str) -> InvalidArguments:
    return InvalidArguments(f"invalid params: {path}: {message}", ({"path": path, "message": message},))
