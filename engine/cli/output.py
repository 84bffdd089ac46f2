"""How things look in a terminal: tables, times, durations, JSON. Foreign text is made harmless first."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import rich_click as click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_WIDE = 10_000  # output that is not a terminal is never cut
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_IDS = ("ID", "RUN")  # how columns of ids are called
STATE_STYLES = {
    "succeeded": "green",
    "success": "green",
    "failed": "red",
    "timeoutfailed": "red",
    "cancelled": "yellow",
    "terminated": "yellow",
    "skipped": "yellow",
    "running": "cyan",
    "paused": "magenta",
    "held": "magenta",
}


def console(*, error: bool = False) -> Console:
    """A console for standard output. Without a terminal: no colours, no markup, lines as long as they are."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else _WIDE
    if stream.isatty() and os.environ.get("COLUMNS", "") in ("0", "1"):
        width = 80
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Called while a `BrokenPipeError` is handled; rich would end the process with exit code 1."""
        raise


def clean(text: str) -> str:
    """`text` without characters that would steer the terminal; line feeds and tabs stay."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def one_line(text: str | None, limit: int = 100) -> str:
    """The first words of a longer text, for a table."""
    line = " ".join(clean(text or "").split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> Table:
    """A table whose cells are plain text; a cell that names a state gets its colour.

    Ids stay whole on a narrow terminal, to be copied; the other columns give way.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    cells = [[_cell(value) for value in row] for row in rows]
    least = 0
    for index, column in enumerate(columns):
        is_id = column.endswith(_IDS)
        width = max([len(column), *(row[index].cell_len for row in cells if is_id)])
        least += width + 2
        made.add_column(
            column,
            justify="right" if column in right else "left",
            overflow="fold",
            no_wrap=is_id,
            min_width=width,
        )
    made.min_width = least
    for row in cells:
        made.add_row(*row)
    return made


def _cell(value: object) -> Text:
    text = "" if value is None else clean(str(value))
    return Text(text, style=state_style(text))


def state_style(state: str) -> str:
    """The colour of a state or a status, empty for other words."""
    return STATE_STYLES.get(state.lower(), "")


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    show(table(columns, rows, right=right))


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values below each other; values that are None are left out."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in facts:
        if value is not None:
            grid.add_row(name, _cell(value))
    show(grid)


def show(renderable: RenderableType) -> None:
    out = console()
    if isinstance(renderable, Table):
        out.width = max(out.width, renderable.min_width or 0)  # a narrower terminal wraps its lines
    if out.is_terminal:
        out.print(renderable)
        return
    with out.capture() as captured:
        out.print(renderable)
    for line in captured.get().splitlines():  # without the blanks that fill up the last column
        click.echo(line.rstrip())


def say(text: str) -> None:
    """A line on standard output."""
    click.echo(clean(text))


def say_done(text: str) -> None:
    """A line that begins with a tick: green on a terminal."""
    show(Text(f"✅ {clean(text)}", style="green"))


def note(text: str) -> None:
    """A line for a person, on standard error, so that output stays clean."""
    click.echo(clean(text), err=True)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def print_json_line(value: Any) -> None:
    """One object of an endless list."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))
    sys.stdout.flush()


# --- times


def time_of_day(value: datetime) -> str:
    """Local time, for lines that follow each other."""
    return value.astimezone().strftime("%H:%M:%S")


def moment(value: datetime | None) -> str:
    """Local time with its offset."""
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def date_and_time(value: datetime | None) -> str:
    """Local time, as the task-engine contract shows it."""
    return "" if value is None else value.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(milliseconds: float | None) -> str:
    """`85ms`, `1.2s`, `2m30s`, `1h5m`."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{max(0, round(milliseconds))}ms"
    if milliseconds < 59_950:
        return f"{milliseconds / 1000:.1f}s"
    minutes, seconds = divmod(round(milliseconds / 1000), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m"
    return f"{minutes}m{seconds}s"


def between(start: datetime | None, end: datetime | None) -> int | None:
    """Whole milliseconds from `start` to `end`, or to now; cut off, as the ExecGo contract does it."""
    if start is None:
        return None
    return max(0, ((end or datetime.now(UTC)) - start) // timedelta(milliseconds=1))
