"""What the tasks of a run wrote, as lines of text or of JSON; on request until the run ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import msgspec
import rich_click as click

from engine.cli.options import NAME, stacked
from engine.cli.output import clean, note, one_line, print_json_line, time_of_day
from engine.cli.target import Target, patiently
from engine.model.records import LogLine
from engine.model.states import FINAL_RUN_STATES

_PAGE = 1000
_OVERLAP = 200  # lines read again while following: lines of different tasks may arrive out of order

logs_options = stacked(
    click.option("--task", "task_name", type=NAME, metavar="NAME", help="Only of this task."),
    click.option("--follow", "-f", is_flag=True, help="Go on until the run ends."),
)


def show_logs(target: Target, run_id: int, *, task_name: str | None, follow: bool, as_json: bool) -> None:
    """Raises `NotFound`, for a task that it does not have too."""
    run = target.run(run_id)
    show_line = _json_line if as_json else _text_line(with_name=task_name is None)
    seen: set[tuple[int, int, int]] = set()
    count = 0
    while True:
        was_over = run.state in FINAL_RUN_STATES
        for line in _lines(target, run_id, task_name, max(0, count - _OVERLAP)):
            key = (line.task_id, line.attempt, line.number)
            if key not in seen:
                seen.add(key)
                count += 1
                show_line(line)
        if not follow or was_over:  # a look after the end has seen the last lines
            break
        patiently(partial(target.events, run_id, after=run.events, wait_seconds=1.0))
        run = patiently(partial(target.run, run_id))
    if not count and not as_json:
        note("nothing was written")


def _lines(target: Target, run_id: int, task_name: str | None, offset: int) -> Iterable[LogLine]:
    while page := patiently(partial(target.logs, run_id, task_name=task_name, limit=_PAGE, offset=offset)):
        yield from page
        offset += len(page)
        if len(page) < _PAGE:
            break


def _json_line(line: LogLine) -> None:
    print_json_line(msgspec.to_builtins(line))


def _text_line(*, with_name: bool) -> Callable[[LogLine], None]:
    def show_line(line: LogLine) -> None:
        name = one_line(line.task_name, 40) if with_name else ""
        place = f"{time_of_day(line.at)} {name}#{line.attempt} | "
        for text in clean(line.text).splitlines() or [""]:
            click.echo(f"{place}{text}", err=line.stream == "stderr" and not with_name)

    return show_line
