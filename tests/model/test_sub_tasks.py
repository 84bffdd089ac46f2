"""What a task comes to whose sub-tasks have ended."""

from __future__ import annotations

from typing import Any

import pytest

from engine.model import sub_tasks
from engine.model.outcomes import Failed, Succeeded
from engine.model.states import TaskState
from engine.model.sub_tasks import Returned, SubTask, summed_up


def ended(*states: TaskState) -> list[SubTask]:
    return [SubTask(number, f"part-{number}", state) for number, state in enumerate(states, 1)]


GOOD, BAD, GONE = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED


def test_what_they_came_to_stands_beside_the_tasks_own_result() -> None:
    added = [
        SubTask(7, "one", GOOD, {"rows": 3}),
        SubTask(8, "two", BAD, None, {"code": "external_failure", "message": "no such file"}),
    ]
    outcome = summed_up(Returned({"day": "monday"}, "left"), added, 0.5)
    assert outcome == Succeeded(
        {
            "day": "monday",
            "subtask_results": [
                {"task_id": "7", "task_name": "one", "status": "Success", "result": {"rows": 3}},
                {"task_id": "8", "task_name": "two", "status": "Failed", "error": "no such file"},
            ],
            "subtask_count": 2,
            "all_subtasks_succeeded": False,
        },
        "left",
    )


@pytest.mark.parametrize(
    ("result", "own"),
    [({"a": 1}, {"a": 1}), ([1, 2], {"original_result": [1, 2]}), (0, {"original_result": 0}), (None, {})],
)
def test_a_result_that_is_no_object_moves(result: Any, own: dict[str, Any]) -> None:
    outcome = summed_up(Returned(result), ended(GOOD), 0.0)
    assert isinstance(outcome, Succeeded) and isinstance(outcome.result, dict)
    assert {key: value for key, value in outcome.result.items() if "subtask" not in key} == own


@pytest.mark.parametrize(
    ("states", "tolerance", "is_well"),
    [
        ((GOOD, GOOD), 0.0, True),
        ((GOOD, BAD), 0.0, False),
        ((GOOD, BAD), 0.49, False),
        ((GOOD, BAD), 0.5, True),
        ((GOOD, GOOD, GONE), 0.3, False),  # whatever did not succeed counts
        ((GOOD, GOOD, TaskState.SKIPPED), 0.34, True),
        ((BAD, BAD), 1.0, True),
        ((*[BAD] * 29, *[GOOD] * 71), 0.29, True),  # 0.29 * 100 is less than 29 as a float
        ((), 0.0, True),
    ],
)
def test_the_tolerance_is_the_share_that_need_not_succeed(
    states: tuple[TaskState, ...], tolerance: float, is_well: bool
) -> None:
    assert isinstance(summed_up(Returned(), ended(*states), tolerance), Succeeded) is is_well


def test_the_error_names_the_first_that_failed() -> None:
    outcome = summed_up(Returned({"day": 1}), ended(GOOD, *[BAD] * 7), 0.0)
    assert isinstance(outcome, Failed) and isinstance(outcome.result, dict)
    names = "part-2, part-3, part-4, part-5, part-6, …"
    assert outcome.message == f"7 of 8 sub-tasks did not succeed: {names}"
    assert (outcome.code, outcome.is_permanent) == ("sub_tasks_failed", True)
    assert (outcome.result["day"], outcome.result["subtask_count"]) == (1, 8)


def test_results_beyond_the_size_of_a_result_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sub_tasks, "MOST_BYTES", 300)
    added = [SubTask(number, f"part-{number}", GOOD, "x" * 100) for number in range(5)]
    outcome = summed_up(Returned(), added, 0.0)
    assert isinstance(outcome, Succeeded) and isinstance(outcome.result, dict)
    # An entry with its result, then some without theirs, then none.
    assert ["result" in entry for entry in outcome.result["subtask_results"]] == [True, False, False]
    assert outcome.result["subtask_results_left_out"] == 4
    assert outcome.result["subtask_count"] == 5


def test_a_result_that_was_not_read_is_left_out() -> None:
    outcome = summed_up(Returned(), [SubTask(1, "part-1", GOOD, is_large=True)], 0.0)
    assert isinstance(outcome, Succeeded) and isinstance(outcome.result, dict)
    assert outcome.result["subtask_results_left_out"] == 1


def test_what_is_kept_is_read_back() -> None:
    for returned in (Returned(), Returned({"a": [1]}, "left"), Returned(3)):
        assert Returned.from_json(returned.to_json()) == returned  # type: ignore[arg-type]
