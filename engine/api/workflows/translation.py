"""Between the engine and the task-engine contract: statuses, progress, durations. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from engine.api.workflows.wire import (
    InstanceDetail,
    InstanceStatus,
    InstanceSummary,
    Progress,
    StatusUpdate,
    TaskInstance,
    TaskStatus,
    UpdateType,
)
from engine.model.records import Run, Task, WorkflowRun
from engine.model.skips import NO_SKIPS, Skips
from engine.model.states import TRANSITIONS, Move, RunState, TaskState
from engine.model.workflow_graph import REALTIME
from engine.operations.runs import Terms
from engine.store.streams import Told

MAX_IDS = 500  # listed with the progress

INSTANCE_STATUS = {
    RunState.PENDING: InstanceStatus.READY,
    RunState.RUNNING: InstanceStatus.RUNNING,
    RunState.PAUSED: InstanceStatus.PAUSED,
    RunState.SUCCEEDED: InstanceStatus.SUCCESS,
    RunState.FAILED: InstanceStatus.FAILED,
    RunState.CANCELLED: InstanceStatus.TERMINATED,
}
RUN_STATE = {status: state for state, status in INSTANCE_STATUS.items()}
TERMS = Terms("instance", INSTANCE_STATUS, is_strict=True)

_TASK_STATUS = {
    TaskState.BLOCKED: TaskStatus.PENDING,
    TaskState.AVAILABLE: TaskStatus.PENDING,
    TaskState.HELD: TaskStatus.PENDING,
    TaskState.RUNNING: TaskStatus.RUNNING,
    TaskState.SUCCEEDED: TaskStatus.SUCCESS,
    TaskState.FAILED: TaskStatus.FAILED,
    TaskState.SKIPPED: TaskStatus.SKIPPED,
    TaskState.CANCELLED: TaskStatus.CANCELLED,
}


def _task_status(task: Task) -> TaskStatus:
    if task.state is TaskState.FAILED and task.last and (task.last.error or {}).get("code") == "timeout":
        return TaskStatus.TIMEOUT
    return _TASK_STATUS[task.state]


def _event_status(told: Told, skips: Skips) -> TaskStatus:
    """The status that the event of a task leaves it in."""
    if told.event.kind not in _MOVES:  # it added tasks, which only running ones can
        return TaskStatus.RUNNING
    state = TRANSITIONS[Move(told.event.kind)].target
    if state is TaskState.FAILED and told.is_timeout:
        return TaskStatus.TIMEOUT
    if state is TaskState.SKIPPED and told.number in skips.numbers:
        return TaskStatus.FAILED
    return _TASK_STATUS[state]


_MOVES = frozenset(Move)


def progress_of(run: Run, skips: Skips = NO_SKIPS, tasks: Iterable[Task] | None = None) -> Progress:
    """With `tasks`, also the first ids of those that run and those that wait."""
    below = min(len(skips.task_ids), run.skipped)  # they are read after the run's row
    failed, skipped = run.failed + run.cancelled + below, run.skipped - below
    progress = Progress(
        total=run.total,
        completed=run.succeeded,
        running=run.running,
        failed=failed,
        skipped=skipped,
        pending=run.total - run.succeeded - run.running - failed - skipped,
    )
    if tasks is not None:
        listed = list(tasks)
        progress.running_task_ids = _ids(listed, TaskStatus.RUNNING)
        progress.pending_task_ids = _ids(listed, TaskStatus.PENDING)
    return progress


def _ids(tasks: Sequence[Task], status: TaskStatus) -> list[str]:
    return [str(task.id) for task in tasks if _TASK_STATUS[task.state] is status][:MAX_IDS]


def summary_of(found: WorkflowRun, now: datetime | None = None) -> InstanceSummary:
    return InstanceSummary(**_summary(found, now))


def detail_of(
    found: WorkflowRun,
    tasks: Iterable[Task] | None,
    skips: Skips = NO_SKIPS,
    now: datetime | None = None,
) -> InstanceDetail:
    return InstanceDetail(
        **_summary(found, now), progress=progress_of(found.run, skips, tasks), params=found.params or None
    )


def _summary(found: WorkflowRun, now: datetime | None) -> dict[str, Any]:
    run = found.run
    started = run.started_at or run.created_at
    elapsed = (run.finished_at or now or datetime.now(UTC)) - started if run.started_at else None
    return {
        "id": str(run.id),
        "workflow_id": found.workflow_id,
        "workflow_name": found.workflow_name,
        "status": INSTANCE_STATUS[run.state],
        "started_at": started,
        "finished_at": run.finished_at,
        "duration": None if elapsed is None else duration_text(elapsed),
        "duration_ms": None if elapsed is None else _milliseconds(elapsed),
        "error_message": found.error,
        "version": found.version,
    }


def task_instance_of(task: Task, run: Run, now: datetime | None = None) -> TaskInstance:
    last = task.last
    started, elapsed = None, None
    if last is not None:
        # The claim that starts a run looks at the clock twice: no task is to start before its instance.
        started = max(last.started_at, run.started_at or last.started_at)
        elapsed = (last.finished_at or now or datetime.now(UTC)) - started
    return TaskInstance(
        id=str(task.id),
        task_id=str(task.id),
        task_name=task.name,
        status=_task_status(task),
        state=task.state,
        retry_count=task.failures if task.state is not TaskState.FAILED else max(0, task.failures - 1),
        started_at=started,
        finished_at=None if last is None else last.finished_at,
        duration=None if elapsed is None else duration_text(elapsed),
        duration_ms=None if elapsed is None else _milliseconds(elapsed),
        error_message=_message(task),
        stream=task.progress if task.kind == REALTIME and isinstance(task.progress, dict) else None,
    )


def apply_skips(tasks: Iterable[TaskInstance], skips: Skips) -> None:
    """What never ran because something failed has failed, in this contract; it says so in its message."""
    for task in tasks:
        if task.status is TaskStatus.SKIPPED and int(task.id) in skips.task_ids:
            task.status = TaskStatus.FAILED


def _message(task: Task) -> str | None:
    if task.state in (TaskState.SKIPPED, TaskState.CANCELLED, TaskState.FAILED):
        return task.reason
    return None


def _milliseconds(elapsed: timedelta) -> int:
    return round(elapsed.total_seconds() * 1000)


def duration_text(elapsed: timedelta) -> str:
    """`1.2s` under a minute, `2m30s` under an hour, then `1h5m`."""
    seconds = max(0.0, elapsed.total_seconds())
    if seconds < 59.95:  # what would be shown as 60.0s
        return f"{seconds:.1f}s"
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}h{minutes}m" if hours else f"{minutes}m{whole % 60}s"


# --- pushed over sockets


def update_of(told: Told, run: Run, skips: Skips = NO_SKIPS) -> StatusUpdate:
    """What the event of a run tells; `run` is its row at that time or later."""
    event = told.event
    of_task = told.state is None
    return StatusUpdate(
        type=UpdateType.TASK if of_task else UpdateType.INSTANCE,
        instance_id=str(event.run_id),
        task_id=str(event.task_id) if of_task else None,
        task_name=event.task_name,
        status=_event_status(told, skips) if told.state is None else INSTANCE_STATUS[told.state],
        progress=progress_of(run, skips) if event.number == run.events else None,
        timestamp=event.at,
        error=told.error,
        number=event.number,
    )


def current_update(run: Run, error: str | None, at: datetime, skips: Skips = NO_SKIPS) -> StatusUpdate:
    """What a reader is told first: how the instance is `at` that time."""
    return StatusUpdate(
        type=UpdateType.INSTANCE,
        instance_id=str(run.id),
        status=INSTANCE_STATUS[run.state],
        progress=progress_of(run, skips),
        timestamp=at,
        error=error,
        number=run.events,
    )
