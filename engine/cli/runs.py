"""`task-engine runs`: look at runs and control them, on a server or on a database."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import rich_click as click
from click.exceptions import Exit

from engine.cli.logs import logs_options, show_logs
from engine.cli.options import RUN_ID, reason_option
from engine.cli.output import (
    duration,
    moment,
    note,
    one_line,
    print_json,
    print_json_line,
    say,
    show_facts,
    show_table,
)
from engine.cli.program import FAILED
from engine.cli.summary import (
    SHOWN_FAILED,
    run_document,
    run_facts,
    run_ms,
    show_tasks,
    task_document,
    totals,
)
from engine.cli.target import Target, mention_idleness, on_each, patiently, tasks_of, with_target
from engine.cli.watch import Progress, view
from engine.model.records import Event, Run
from engine.model.states import FINAL_RUN_STATES, RunState, TaskState

_WAIT_SECONDS = 5.0

run_argument = click.argument("run_id", metavar="RUN", type=RUN_ID)
Control = Callable[[Target, int], Run]


@click.group("runs")
def runs() -> None:
    """List, show, watch, pause, resume, cancel and retry runs; read their logs."""


@runs.command("list")
@click.option(
    "--state", type=click.Choice([str(state) for state in RunState]), help="Only runs in this state."
)
@click.option("--name", metavar="NAME", help="Only runs of this name.")
@click.option("--before", type=RUN_ID, metavar="RUN", help="Only runs older than this one.")
@click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many at most."
)
@with_target
def list_(target: Target, limit: int, as_json: bool, **wanted: Any) -> None:
    """List runs, newest first."""
    found = target.runs(limit=limit + 1, **wanted)
    listed = found[:limit]
    if as_json:
        print_json([run_document(run) for run in listed])
        return
    show_table(
        ("RUN", "NAME", "STATE", "DONE", "FAILED", "CREATED", "DURATION"),
        (
            (
                run.id,
                one_line(run.name, 40),
                run.state,
                f"{run.succeeded + run.failed + run.skipped + run.cancelled}/{run.total}",
                run.failed or "",
                moment(run.created_at),
                duration(run_ms(run)) if run.started_at else "",
            )
            for run in listed
        ),
        right=("RUN", "DONE", "FAILED", "DURATION"),
    )
    if len(found) > limit:
        note(f"there are more, older ones: --before {listed[-1].id} reads on, --limit N shows more")


@runs.command("show")
@run_argument
@click.option(
    "--state", type=click.Choice([str(state) for state in TaskState]), help="Only tasks in this state."
)
@click.option(
    "--limit", type=click.IntRange(0, 100_000), default=100, show_default=True, help="Tasks at most."
)
@with_target
def show(target: Target, run_id: int, state: str | None, limit: int, as_json: bool) -> None:
    """Show a run and its tasks. With --json also parameters, results and progress."""
    run = target.run(run_id)
    tasks = tasks_of(target, run_id, state=state, limit=limit)
    if as_json:
        print_json({"run": run_document(run), "tasks": [task_document(task) for task in tasks]})
        return
    show_facts(run_facts(run))
    say("")
    if tasks:
        show_tasks(tasks)
        say("")
    if state is None and run.total > len(tasks):
        say(f"{run.total - len(tasks)} more tasks; --limit shows more of them")
    say(totals(run))


# --- watch


@runs.command("watch")
@run_argument
@with_target
def watch(target: Target, run_id: int, as_json: bool) -> None:
    """Follow a run until it ends; the exit code says whether it succeeded. With --json: its events."""
    progress = Progress(target.run(run_id))
    if not progress.is_over:
        mention_idleness(target)
    if as_json:
        for events in _events(target, progress):
            for event in events:
                print_json_line(msgspec.to_builtins(event))
    else:
        if not progress.is_over and not sys.stdout.isatty():
            say(totals(progress.run))
            sys.stdout.flush()  # nothing more may come for long
        with view() as picture:
            for events in _events(target, progress):
                picture.show(progress, progress.take(events))
        if progress.run.failed:
            show_tasks(target.tasks(run_id, state=TaskState.FAILED, limit=SHOWN_FAILED))
        say(totals(progress.run))
    raise Exit(0 if progress.run.state is RunState.SUCCEEDED else FAILED)


def _events(target: Target, progress: Progress) -> Iterator[list[Event]]:
    """Every event of a run from the first to its end, in batches; the run is as of each batch."""
    number = 0
    while True:
        wait = 0.0 if number < progress.run.events else _WAIT_SECONDS
        events = patiently(partial(target.events, progress.run.id, after=number, wait_seconds=wait))
        number = events[-1].number if events else number
        progress.run = patiently(partial(target.run, progress.run.id))
        yield events
        if progress.is_over and number >= progress.run.events:
            return


# --- control


def _control(name: str, help_: str, act: Control) -> None:
    @runs.command(name, help=help_)
    @click.argument("run_ids", metavar="RUN...", type=RUN_ID, nargs=-1, required=True)
    @with_target
    def command(target: Target, run_ids: tuple[int, ...], as_json: bool) -> None:
        _act_on_each(run_ids, partial(act, target), as_json)


def _act_on_each(run_ids: Sequence[int], act: Callable[[int], Run], as_json: bool) -> None:
    with on_each(run_ids, act) as changed:
        if as_json:
            print_json([run_document(run) for run in changed.values()])
            return
        for run in changed.values():
            state = "cancelling" if run.is_cancelling and run.state not in FINAL_RUN_STATES else run.state
            say(f"run {run.id}: {state}")


_control("pause", "Start no further attempt of these runs; running ones go on.", lambda t, i: t.pause(i))
_control("resume", "Let paused runs go on.", lambda t, i: t.resume(i))
_control("retry", "Run again what did not succeed in failed or cancelled runs.", lambda t, i: t.retry(i))


@runs.command("cancel")
@click.argument("run_ids", metavar="RUN...", type=RUN_ID, nargs=-1, required=True)
@reason_option(is_required=False)
@with_target
def cancel(target: Target, run_ids: tuple[int, ...], reason: str | None, as_json: bool) -> None:
    """Stop runs: nothing more is started, running attempts are ended."""
    _act_on_each(run_ids, partial(target.cancel, reason=reason), as_json)


@runs.command("delete")
@click.argument("run_ids", metavar="RUN...", type=RUN_ID, nargs=-1, required=True)
@with_target
def delete(target: Target, run_ids: tuple[int, ...], as_json: bool) -> None:
    """Remove finished runs with everything that belongs to them."""
    with on_each(run_ids, target.delete) as deleted:
        if as_json:
            print_json({"deleted": list(deleted)})
        elif deleted:
            say(f"deleted {', '.join(map(str, deleted))}")


# --- logs


@runs.command("logs")
@run_argument
@logs_options
@with_target
def logs(target: Target, run_id: int, task_name: str | None, follow: bool, as_json: bool) -> None:
    """Print what the tasks of a run wrote: time, task and number of the attempt before each line."""
    show_logs(target, run_id, task_name=task_name, follow=follow, as_json=as_json)
