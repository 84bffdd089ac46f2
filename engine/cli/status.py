"""An instance and its tasks as a block of text, once or again and again until the instance has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from engine.api.workflows.translation import duration_text
from engine.api.workflows.wire import InstanceDetail, InstanceStatus, TaskInstance, TaskStatus
from engine.cli.output import clean, console, one_line, print_json_line, show, state_style, time_of_day
from engine.cli.target import Target, patiently
from engine.client.answers import typed
from engine.errors import NotFound
from engine.model.sagas import SagaState

MAX_SHOWN = 100  # tasks of a block
ICONS = {
    **dict.fromkeys(("Success",), "✅"),
    **dict.fromkeys(("Failed", "TimeoutFailed"), "❌"),
    **dict.fromkeys(("Running",), "🔄"),
    **dict.fromkeys(("Pending", "Ready"), "⏳"),
    **dict.fromkeys(("Paused",), "⏸"),
    **dict.fromkeys(("Terminated", "Cancelled"), "🛑"),
    **dict.fromkeys(("Skipped",), "⏭"),
}
FINAL = {InstanceStatus.SUCCESS, InstanceStatus.FAILED, InstanceStatus.TERMINATED}
_OPEN = {TaskStatus.PENDING, TaskStatus.RUNNING}
_BY_INTEREST = (TaskStatus.RUNNING, TaskStatus.FAILED, TaskStatus.TIMEOUT, TaskStatus.PENDING)
_WAIT_SECONDS = 5.0
_TICK_SECONDS = 1.0  # on a terminal durations go on
_HEAD_LINES = 8  # of a block, without its tasks, and the line of the cursor
_MIN_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class SagaBrief:
    state: SagaState
    compensation_run_id: int | None


@dataclass(frozen=True, slots=True)
class Look:
    """An instance at one moment; `document` as the API answers it, with the `saga` if it is one."""

    document: dict[str, Any]
    detail: InstanceDetail
    tasks: list[TaskInstance]
    saga: SagaBrief | None = None

    @property
    def is_over(self) -> bool:
        return self.detail.status in FINAL

    @property
    def has_succeeded(self) -> bool:
        return self.detail.status is InstanceStatus.SUCCESS


def look_at(target: Target, instance_id: str) -> Look:
    document = target.instance(instance_id)
    tasks = [typed(task, TaskInstance) for task in target.instance_tasks(instance_id)]
    detail = typed(document, InstanceDetail)
    saga = _saga(target, int(detail.id))
    if saga is not None:
        document = {**document, "saga": asdict(saga)}
    return Look(document, detail, tasks, saga)


def _saga(target: Target, run_id: int) -> SagaBrief | None:
    try:
        return typed(target.saga(run_id), SagaBrief)
    except NotFound:
        return None


def watch(target: Target, instance_id: str, *, as_json: bool) -> Look:
    """Show an instance until it has ended; returns the last look. With JSON a line for each change."""
    if as_json:
        return _last(_looks(target, instance_id, _WAIT_SECONDS), _json_lines())
    out = console()
    if not out.is_terminal:
        look = _last(_looks(target, instance_id, _WAIT_SECONDS), _task_lines(out))
        show(_head(look))
        return look
    with Live(console=out, auto_refresh=False, transient=True, redirect_stderr=False) as live:
        look = _last(
            _looks(target, instance_id, _TICK_SECONDS),
            lambda look: live.update(block(look, max(1, out.height - _HEAD_LINES)), refresh=True),
        )
    show(block(look))
    return look


def _looks(target: Target, instance_id: str, wait_seconds: float) -> Iterator[Look]:
    """The instance now and after each change, at least every `wait_seconds`; large ones less often."""
    while True:
        started = time.monotonic()
        run = patiently(partial(target.run, int(instance_id)))  # first: what happens meanwhile is not missed
        look = patiently(partial(look_at, target, instance_id))
        yield look
        if look.is_over:
            return
        time.sleep(max(_MIN_PAUSE_SECONDS, time.monotonic() - started))
        patiently(partial(target.events, run.id, after=run.events, wait_seconds=wait_seconds))


def _last(looks: Iterator[Look], show_look: Callable[[Look], object]) -> Look:
    look: Look | None = None
    for look in looks:
        show_look(look)
    assert look is not None
    return look


def _json_lines() -> Callable[[Look], None]:
    before: list[dict[str, Any]] = []

    def show_look(look: Look) -> None:
        same = {key: value for key, value in look.document.items() if not key.startswith("duration")}
        if [same] != before or look.is_over:
            before[:] = [same]
            print_json_line(look.document)

    return show_look


def _task_lines(out: Console) -> Callable[[Look], None]:
    """A line for each task that has ended since the look before."""
    told: set[str] = set()

    def show_look(look: Look) -> None:
        for task in look.tasks:
            if task.status in _OPEN:
                told.discard(task.id)
            elif task.id not in told:
                told.add(task.id)
                at = time_of_day(task.finished_at or datetime.now(UTC))
                out.print(Text(f"{at} ").append_text(_task_line(task)))
        out.file.flush()

    return show_look


def _task_line(task: TaskInstance) -> Text:
    text = Text(f"{ICONS[task.status]} {one_line(task.task_name, 60)}  ")
    text.append(task.status, style=state_style(task.status))
    for more in (_elapsed(task), one_line(task.error_message, 200)):
        text.append(f"  {more}" if more else "")
    return text


# --- the block


def block(look: Look, limit: int = MAX_SHOWN) -> RenderableType:
    parts: list[RenderableType] = [_head(look), Text("Tasks:")]
    parts.append(_table(_chosen(look.tasks, limit)))
    if (left := len(look.tasks) - limit) > 0:
        parts.append(
            Text(f"  … and {left} more; `task-engine instance tasks {look.detail.id}` shows all", style="dim")
        )
    return Group(*parts)


def _head(look: Look) -> RenderableType:
    detail, progress = look.detail, look.detail.progress
    percent = 100 * progress.completed // progress.total if progress.total else 100
    text = Text(f"Instance: {detail.id}\nStatus:   ")
    text.append(detail.status, style=state_style(detail.status))
    text.append(f"\nProgress: {progress.completed}/{progress.total} ({percent}%)")
    if detail.error_message:
        text.append(f"\nError:    {one_line(detail.error_message, 500)}")
    if look.saga is not None:
        run_id = look.saga.compensation_run_id
        undone = "" if run_id is None else f"by run {run_id}; "
        text.append(f"\nSaga:     {look.saga.state} ({undone}`task-engine saga show {detail.id}`)")
    return text


def _chosen(tasks: Sequence[TaskInstance], limit: int) -> list[TaskInstance]:
    """Of too many those that say most, in the order of the workflow."""
    if len(tasks) <= limit:
        return list(tasks)
    rank = {status: number for number, status in enumerate(_BY_INTEREST)}
    chosen = sorted(range(len(tasks)), key=lambda index: rank.get(tasks[index].status, len(rank)))[:limit]
    return [tasks[index] for index in sorted(chosen)]


def _table(tasks: Sequence[TaskInstance]) -> Table:
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for _ in range(4):
        grid.add_column(overflow="fold")
    for task in tasks:
        grid.add_row(
            Text(f"  {ICONS[task.status]} {one_line(task.task_name, 60)}"),
            Text(task.status, style=state_style(task.status)),
            Text(_elapsed(task)),
            Text(clean(one_line(task.error_message, 100))),
        )
    return grid


def _elapsed(task: TaskInstance) -> str:
    """Of what runs, up to now."""
    if task.status is TaskStatus.RUNNING and task.started_at is not None:
        return duration_text(datetime.now(UTC) - task.started_at)
    return task.duration or ""
