"""Every state, outcome and code of ours has a word of the contract's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from engine.api.execgo.translation import (
    FILTERS,
    Kinds,
    error_of,
    graph_handle,
    graph_of,
    handle_out,
    spec_of,
    status_of,
    task_of_handle,
    task_out,
)
from engine.api.execgo.wire import TaskIn
from engine.errors import TooLarge
from engine.model.records import Attempt, Task
from engine.model.retry import RetryPolicy
from engine.model.states import FINAL_TASK_STATES, TaskState

KINDS = Kinds(frozenset({"noop", "shell", "os", "mcp", "cli-skills", "mine"}), frozenset({"noop", "shell"}))
START = datetime(2026, 1, 1, tzinfo=UTC)
STATUSES = {"pending", "running", "success", "failed", "skipped"}


def attempt(outcome: str, **changes: Any) -> Attempt:
    ended = Attempt(
        1, outcome, "w", START, START + timedelta(milliseconds=1500), error={"code": "x", "message": "m"}
    )
    return replace(ended, **changes)


def task(state: TaskState, last: Attempt | None = None, **changes: Any) -> Task:
    submitted = Task(
        id=7,
        run_id=1,
        name="a",
        kind="noop",
        params=None,
        state=state,
        queue="default",
        priority=0,
        rule="all_success",
        depends_on=(),
        timeout_ms=None,
        retry=RetryPolicy(),
        created_at=START,
        changed_at=START,
        available_at=None,
        waiting_on=0,
        attempt=last.number if last else 0,
        failures=0,
        crashes=0,
        reason=None,
        last=last,
    )
    return replace(submitted, **changes)


def shown(subject: Task) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.to_builtins(task_out(subject, KINDS))
    return answer


@pytest.mark.parametrize(
    "last", [None, attempt("failed"), attempt("released"), attempt("crashed"), attempt("cancelled")]
)
@pytest.mark.parametrize("failures", [0, 1])
@pytest.mark.parametrize("state", TaskState)
def test_every_state_has_a_status(state: TaskState, failures: int, last: Attempt | None) -> None:
    subject = task(state, last, failures=failures, reason="dependency x failed")
    status = status_of(subject)
    assert status in STATUSES
    answer = shown(subject)
    assert (answer["status"] in ("success", "failed", "skipped")) == (state in FINAL_TASK_STATES)
    assert ("runtime" in answer) == ("run_status" in answer) == (status not in ("pending", "skipped"))
    assert ("error" in answer) == (status in ("failed", "skipped"))
    assert msgspec.to_builtins(handle_out(subject, "mcp-1"))["status"] in (
        "accepted",
        "running",
        "success",
        "failed",
        "cancelled",
    )


@pytest.mark.parametrize("failures", [0, 1])
@pytest.mark.parametrize("state", TaskState)
def test_filters_select_what_is_shown(state: TaskState, failures: int) -> None:
    if state is TaskState.BLOCKED and failures:
        return  # going back to the start resets the count

    def selects(states: tuple[TaskState, ...], failed_before: bool | None) -> bool:
        """As `store.queries.list_aliased` has it in SQL."""
        has_failed = state is TaskState.RUNNING or failures > 0 if failed_before else failures == 0
        return state in states and (failed_before is None or has_failed)

    found = [status for status, wanted in FILTERS.items() if selects(*wanted)]
    assert found == [status_of(task(state, failures=failures))]


def test_released_task_waits_again_without_traces() -> None:
    answer = shown(task(TaskState.AVAILABLE, attempt("released")))
    assert answer["status"] == "pending"
    assert not {"runtime", "run_status", "error", "result"} & answer.keys()


def test_envelope_of_a_success() -> None:
    answer = shown(task(TaskState.SUCCEEDED, attempt("succeeded", error=None, result={"k": 1})))
    assert answer["runtime"] == {
        "status": "success",
        "output": {"k": 1},
        "started_at": "2026-01-01T00:00:00.000000Z",
        "finished_at": "2026-01-01T00:00:01.500000Z",
        "duration_ms": 1500,
        "attempt": 1,
        "details": None,
    }


def test_duration_of_less_than_a_millisecond_is_left_out() -> None:
    fast = attempt("succeeded", error=None, finished_at=START + timedelta(microseconds=900))
    assert "duration_ms" not in shown(task(TaskState.SUCCEEDED, fast))["runtime"]


def test_codes_of_ours_become_the_contracts_and_are_kept() -> None:
    lost = attempt(
        "crashed", error={"code": "worker_lost", "message": "m", "source": "scheduler", "retryable": True}
    )
    error = msgspec.to_builtins(error_of(lost))
    assert error == {
        "code": "external_failure",
        "message": "m",
        "retryable": True,
        "source": "scheduler",
        "details": {"raw_error_code": "worker_lost"},
    }
    known = attempt(
        "failed", error={"code": "timeout", "message": "context deadline exceeded", "source": "scheduler"}
    )
    assert msgspec.to_builtins(error_of(known))["code"] == "timeout"


@pytest.mark.parametrize(
    ("type_", "tool", "kind"),
    [
        ("noop", "", "noop"),
        ("shell", "", "shell"),
        ("http", "", "os"),  # an alias whose tool is not installed
        ("os", "noop", "noop"),
        ("os", " noop ", "noop"),
        ("os", "mcp", "os"),
        ("os", "NOOP", "os"),
        ("os", "", "os"),
        ("mcp", "noop", "mcp"),
        ("mine", "", "mine"),
        ("badtype", "", "badtype"),
    ],
)
def test_type_and_tool_choose_the_kind(type_: str, tool: str, kind: str) -> None:
    tool_name = type_ if type_ in ("noop", "shell", "http") else tool
    assert KINDS.kind_of(type_, tool_name) == kind


def test_available_types_keep_their_order() -> None:
    assert str(KINDS.unknown("x")) == "unknown task type: x (available: cli-skills, mcp, mine, os)"


@pytest.mark.parametrize(
    ("retry", "waits"),
    [(0, []), (-1, []), (3, [100, 200, 400]), (9, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000])],
)
def test_retries_wait_as_the_contract_says(retry: int, waits: list[int]) -> None:
    policy = spec_of(TaskIn(id="a", type="noop", retry=retry), KINDS, b"").retry
    assert policy.max_attempts == len(waits) + 1
    assert [policy.delay_ms(failures) for failures in range(1, policy.max_attempts)] == waits


@pytest.mark.parametrize(
    ("timeout", "limit"), [(0, None), (-5, None), (1, 1), (2**63 - 1, 10 * 365 * 86_400_000)]
)
def test_timeouts_are_bounded(timeout: int, limit: int | None) -> None:
    assert spec_of(TaskIn(id="a", type="noop", timeout=timeout), KINDS, b"").timeout_ms == limit


def test_handles_of_graph_tasks_are_read_back() -> None:
    assert task_of_handle(graph_handle(7)) == 7
    assert task_of_handle("mcp-1775182513428872000") is None
    assert task_of_handle("mcp-7") is None
    assert task_of_handle("mcp-" + "\u0660" * 18 + "7") is None


def test_too_many_tasks_are_refused_before_they_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.model.graph.MAX_TASKS", 1)
    with pytest.raises(TooLarge, match="task graph has 2 tasks, the limit is 1"):
        graph_of([TaskIn(), TaskIn()], KINDS, b"")
