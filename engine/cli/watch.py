"""A run as its events tell it: counts, what is running, what has ended. Shown live, or as plain lines."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from engine.cli.output import STATE_STYLES, between, clean, console, duration, one_line, time_of_day
from engine.model.records import Event, Run
from engine.model.states import FINAL_RUN_STATES

_SHOWN_RUNNING = 10
_ENDINGS = {"succeeded", "failed", "skipped", "declined", "cancelled"}
_RETRIES = {"retried", "retried_held"}
_AGAIN = {  # by the outcome of the attempt
    "failed": "failed, will retry",
    "crashed": "interrupted (worker lost), will be repeated",
    "released": "interrupted (worker stopped), will be repeated",
}


@dataclass(slots=True)
class Progress:
    """What is known of a run so far."""

    run: Run
    running: dict[str, datetime] = field(default_factory=dict)  # by task name: since when

    @property
    def is_over(self) -> bool:
        return self.run.state in FINAL_RUN_STATES

    def take(self, events: Iterable[Event]) -> list[tuple[Event, int | None]]:
        """Take note of `events`; returns those that ended an attempt, with its milliseconds."""
        ended = []
        for event in events:
            name = event.task_name
            if name is None:
                continue
            if event.kind == "started":
                self.running[name] = event.at
            elif event.kind in _ENDINGS | _RETRIES:
                started = self.running.pop(name, None)
                ended.append((event, None if started is None else between(started, event.at)))
        return ended


class View(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def show(self, progress: Progress, ended: list[tuple[Event, int | None]]) -> None: ...


def view(out: Console | None = None) -> View:
    """A live picture on a terminal, plain lines elsewhere."""
    out = out or console()
    return LiveView(out) if out.is_terminal else LineView(out)


class LineView:
    """One line for each attempt that ended."""

    def __init__(self, out: Console) -> None:
        self._out = out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def show(self, progress: Progress, ended: list[tuple[Event, int | None]]) -> None:
        run = progress.run
        done = run.succeeded + run.failed + run.skipped + run.cancelled
        done -= sum(event.kind in _ENDINGS for event, _ in ended)
        for event, milliseconds in ended:
            done += event.kind in _ENDINGS
            self._out.print(_line(event, milliseconds, f"[{done}/{run.total}]"))
        self._out.file.flush()


class QuietView(LineView):
    def __init__(self) -> None:
        super().__init__(Console(quiet=True))

    def show(self, progress: Progress, ended: list[tuple[Event, int | None]]) -> None:
        return None


class LiveView:
    """Counts by state, a bar, the tasks that run now. What failed stays above it."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._progress: Progress | None = None
        self._live = Live(
            get_renderable=self._picture,
            console=out,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, progress: Progress, ended: list[tuple[Event, int | None]]) -> None:
        self._progress = progress
        for event, milliseconds in ended:
            if event.kind != "succeeded":
                self._out.print(_line(event, milliseconds, ""))

    def _picture(self) -> RenderableType:
        if self._progress is None:
            return Text("")
        return picture(self._progress)


def picture(progress: Progress) -> RenderableType:
    run = progress.run
    done = run.succeeded + run.failed + run.skipped + run.cancelled
    head = Text(f"run {run.id}{f' {clean(run.name)}' if run.name else ''}  ", style="bold")
    head.append(run.state, style=STATE_STYLES.get(run.state, ""))
    head.append(f"  {duration(between(run.started_at or run.created_at, run.finished_at))}", style="dim")
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        ProgressBar(total=max(run.total, 1), completed=done, width=40), f"{done}/{run.total}", _counts(run)
    )
    rows: list[RenderableType] = [head, bar]
    now = datetime.now(UTC)
    for name, since in list(progress.running.items())[:_SHOWN_RUNNING]:
        rows.append(Text(f"  {one_line(name, 60)}  {duration(between(since, now))}", style="cyan"))
    if len(progress.running) > _SHOWN_RUNNING:
        rows.append(Text(f"  … and {len(progress.running) - _SHOWN_RUNNING} more", style="dim"))
    return Group(*rows)


def _counts(run: Run) -> Text:
    text = Text()
    waiting = run.total - run.running - run.succeeded - run.failed - run.skipped - run.cancelled
    for state, number in (
        ("running", run.running),
        ("waiting", waiting),
        ("succeeded", run.succeeded),
        ("failed", run.failed),
        ("skipped", run.skipped),
        ("cancelled", run.cancelled),
    ):
        if number:
            text.append(f"{number} {state}  ", style=STATE_STYLES.get(state, "dim"))
    return text


def _line(event: Event, milliseconds: int | None, place: str) -> Text:
    detail = event.detail or {}
    kind = _AGAIN.get(str(detail.get("outcome")), event.kind) if event.kind in _RETRIES else event.kind
    style = STATE_STYLES.get(event.kind, "yellow")
    text = Text(f"{time_of_day(event.at)} ", style="dim")
    text.append(f"{kind:<10} ", style=style)
    text.append(one_line(event.task_name, 200))
    if milliseconds is not None:
        text.append(f"  {duration(milliseconds)}", style="dim")
    if event.attempt and event.attempt > 1:
        text.append(f"  attempt {event.attempt}", style="dim")
    if place:
        text.append(f"  {place}", style="dim")
    if kind.startswith("failed") and "error" in detail:
        text.append(f"  {one_line(str(detail['error']), 200)}")
    return text
