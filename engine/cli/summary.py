"""What became of a run: its tasks in a table, its totals, as text or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.cli.output import between, duration, moment, one_line, print_json, say, show_table
from engine.model.records import Run, Task
from engine.model.states import FINAL_TASK_STATES, TaskState
from engine.operations import runs
from engine.store.database import Database

_ALL_ROWS = 60  # of larger runs only what did not succeed is listed
_MAX_ROWS = 60
_PAGE = 1000
SHOWN_FAILED = 20  # where only the reasons of a failure are shown


@dataclass(frozen=True, slots=True)
class Summary:
    run: Run
    tasks: list[Task]  # all of them, or of a large run those that did not succeed


async def read_summary(database: Database, run_id: int) -> Summary:
    run = await runs.get(database, run_id)
    if run.total <= _ALL_ROWS:
        return Summary(run, await runs.tasks(database, run_id))
    listed: list[Task] = []
    for state in TaskState:
        if state is not TaskState.SUCCEEDED:
            listed += await runs.tasks(database, run_id, state=state, limit=_PAGE)
    return Summary(run, sorted(listed, key=lambda task: task.id))


def print_summary(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print_json({"run": run_document(summary.run), "tasks": [_brief(task) for task in summary.tasks]})
        return
    if summary.tasks:
        show_tasks(summary.tasks[:_MAX_ROWS])
    if len(summary.tasks) > _MAX_ROWS:
        say(f"… and {len(summary.tasks) - _MAX_ROWS} more that did not succeed")
    say("")
    say(totals(summary.run))


def show_tasks(tasks: Sequence[Task]) -> None:
    show_table(
        ("TASK", "KIND", "STATE", "ATTEMPTS", "DURATION", "ERROR"),
        (
            (
                one_line(task.name, 60),
                one_line(task.kind, 30),
                task.state,
                task.attempt or "",
                duration(task_ms(task)),
                one_line(_explained(task), 200),
            )
            for task in tasks
        ),
        right=("ATTEMPTS", "DURATION"),
    )
    say_hints(task.last.error for task in tasks if task.last)


def say_hints(errors: Iterable[dict[str, Any] | None]) -> None:
    """What an executor knows of a way out stands in the details of its error."""
    details = [error.get("details") for error in errors if error]
    for hint in dict.fromkeys(item["hint"] for item in details if isinstance(item, dict) and "hint" in item):
        say(f"hint: {one_line(str(hint), 500)}")


def totals(run: Run) -> str:
    """`run 3 census: succeeded in 1.2s (12 tasks: 12 succeeded)`."""
    numbers = {
        "succeeded": run.succeeded,
        "failed": run.failed,
        "skipped": run.skipped,
        "cancelled": run.cancelled,
        "running": run.running,
    }
    numbers["waiting"] = run.total - sum(numbers.values())
    shown = ", ".join(f"{number} {state}" for state, number in numbers.items() if number)
    name = f" {one_line(run.name, 60)}" if run.name else ""
    took = duration(run_ms(run))
    when = f"in {took}" if run.finished_at else f"for {took}"
    plural = "task" if run.total == 1 else "tasks"
    return f"run {run.id}{name}: {run.state} {when} ({run.total} {plural}: {shown})"


def why(task: Task) -> str | None:
    """Why a task did not succeed, so far as somebody said so."""
    if task.state is TaskState.SUCCEEDED:
        return None
    error = task.last.error if task.last else None
    message = error.get("message") if error else None
    return str(message) if message else task.reason


def _explained(task: Task) -> str | None:
    """Why a task did not succeed, with the last line that its process wrote to stderr."""
    message = why(task)
    result = task.last.result if task.last else None
    stderr = result.get("stderr") if isinstance(result, dict) else None
    last_words = stderr.strip().rpartition("\n")[2] if isinstance(stderr, str) else ""
    return f"{message}: {last_words}" if message and last_words else message


def task_ms(task: Task) -> int | None:
    """Of the last attempt, in milliseconds."""
    if task.last is None or (task.last.finished_at is None and task.state in FINAL_TASK_STATES):
        return None
    return between(task.last.started_at, task.last.finished_at)


def run_ms(run: Run) -> int | None:
    return between(run.started_at or run.created_at, run.finished_at)


# --- JSON


def run_document(run: Run) -> dict[str, Any]:
    return {**msgspec.to_builtins(run), "duration_ms": run_ms(run)}


def task_document(task: Task) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(task)
    del document["client"]  # the business of the contract that submitted it
    return {**document, "retry": task.retry.to_json(), "duration_ms": task_ms(task)}


def _brief(task: Task) -> dict[str, Any]:
    return {
        "name": task.name,
        "kind": task.kind,
        "state": task.state,
        "attempts": task.attempt,
        "duration_ms": task_ms(task),
        "error": why(task),
    }


def run_facts(run: Run) -> list[tuple[str, object]]:
    return [
        ("run", run.id),
        ("name", run.name),
        ("state", f"{run.state}{' (cancelling)' if run.is_cancelling and not run.finished_at else ''}"),
        ("labels", ", ".join(f"{key}={value}" for key, value in run.labels.items()) or None),
        ("created", moment(run.created_at)),
        ("started", moment(run.started_at) or None),
        ("finished", moment(run.finished_at) or None),
        ("duration", duration(run_ms(run))),
    ]
