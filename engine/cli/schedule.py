"""`task-engine schedule`: when workflows run by themselves."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import rich_click as click

from engine.api.workflows.wire import NextTimes, ScheduleOut, Schedules, Started
from engine.cli.instances import note_more, say_message
from engine.cli.options import NAME, paging_options, stacked
from engine.cli.output import moment, note, one_line, print_json, say, say_done, show_facts, show_table
from engine.cli.params import params_of, params_options
from engine.cli.target import Target, with_target
from engine.client.answers import typed
from engine.model.json import JSON
from engine.model.schedules import MAX_CATCH_UP, CatchUp, Overlap

schedule_argument = click.argument("schedule_id", metavar="SCHEDULE", type=NAME)


@click.group("schedule")
def schedule() -> None:
    """List, show, make, pause, resume, trigger and delete schedules of workflows.

    SCHEDULE is the id or the name of one.
    """


# --- look


@schedule.command("list")
@click.option("--workflow", type=NAME, metavar="WORKFLOW", help="Only those of this workflow.")
@click.option("--enabled/--paused", "is_enabled", default=None, help="Only those that are.")
@paging_options(20)
@with_target
def list_(
    target: Target,
    workflow: str | None,
    is_enabled: bool | None,
    limit: int,
    offset: int,
    as_json: bool,
) -> None:
    """List schedules by name, with the time that comes next."""
    document = target.schedules(workflow=workflow, is_enabled=is_enabled, limit=limit, offset=offset)
    if as_json:
        print_json(document)
        return
    found = typed(document, Schedules)
    if not found.items:
        say("no schedules")
        return
    show_table(
        ("ID", "NAME", "WORKFLOW_ID", "CRON", "ZONE", "STATE", "NEXT"),
        (
            (
                each.id,
                one_line(each.name, 60),
                each.workflow_id,
                one_line(each.expression, 60),
                each.zone,
                _state(each),
                moment(each.next_at) if each.is_enabled else "",
            )
            for each in found.items
        ),
    )
    if found.has_more:
        note_more(offset + len(found.items))


def _state(found: ScheduleOut) -> str:
    return "enabled" if found.is_enabled else "paused"


@schedule.command("show")
@schedule_argument
@with_target
def show(target: Target, schedule_id: str, as_json: bool) -> None:
    """Show a schedule, and why its last firing failed, if it did."""
    document = target.schedule(schedule_id)
    if as_json:
        print_json(document)
    else:
        show_facts(_facts(typed(document, ScheduleOut)))


def _facts(found: ScheduleOut) -> list[tuple[str, object]]:
    limit = f", {found.catch_up_limit} at most" if found.catch_up is CatchUp.ALL else ""
    return [
        ("id", found.id),
        ("name", found.name),
        ("workflow", found.workflow_id),
        ("cron", found.expression),
        ("meaning", found.explanation),
        ("zone", found.zone),
        ("params", json.dumps(found.params, ensure_ascii=False) if found.params else None),
        ("overlap", found.overlap),
        ("catch up", f"{found.catch_up}{limit}"),
        ("state", _state(found)),
        ("next", moment(found.next_at) if found.is_enabled and found.next_at else None),
        ("last", moment(found.last_at) or None),
        ("waiting", moment(found.queued_at) or None),
        ("error", one_line(found.error, 500) or None),
        ("created", f"{moment(found.created_at)} by {found.actor}"),
        ("changed", moment(found.changed_at)),
    ]


@schedule.command("next")
@schedule_argument
@click.option(
    "--count", type=click.IntRange(1, 100), default=10, show_default=True, metavar="N", help="How many."
)
@with_target
def next_(target: Target, schedule_id: str, count: int, as_json: bool) -> None:
    """Show when it fires next: in its own zone, in UTC, and in the time of this machine."""
    document = target.next_times(schedule_id, count)
    if as_json:
        print_json(document)
        return
    found = typed(document, NextTimes)
    if not found.is_enabled:
        note("note: the schedule is paused; these would be its times if it were resumed now")
    if not found.times:
        say("it never fires again")
        return
    show_table(
        ("ZONE_TIME", "UTC", "LOCAL"),
        ((_as_given(time.local), _as_given(time.at), moment(time.at)) for time in found.times),
    )


def _as_given(value: datetime) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S %z")


# --- change


@schedule.command("create")
@click.argument("workflow_id", metavar="WORKFLOW", type=NAME)
@click.option("--name", type=NAME, required=True, metavar="NAME", help="What to call it; unique.")
@click.option(
    "--cron",
    "expression",
    required=True,
    metavar="EXPRESSION",
    help="Second minute hour day month weekday; five fields mean second 0.",
)
@click.option(
    "--zone", metavar="ZONE", help="IANA name, such as Europe/Berlin (default: the engine's, UTC unless set)."
)
@stacked(
    click.option(
        "--overlap",
        type=click.Choice([str(word) for word in Overlap]),
        help="When the run before has not ended (default: allow).",
    ),
    click.option(
        "--catch-up",
        type=click.Choice([str(word) for word in CatchUp]),
        help="Times that passed while nobody looked (default: last).",
    ),
    click.option(
        "--catch-up-limit",
        type=click.IntRange(1, MAX_CATCH_UP),
        metavar="N",
        help="With --catch-up all: how many of them at most (default: 100).",
    ),
)
@params_options
@with_target
def create(
    target: Target,
    workflow_id: str,
    name: str,
    expression: str,
    given: tuple[tuple[str, JSON], ...],
    params_file: str | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Run a workflow at these times. WORKFLOW is its id or its name."""
    fields["params"] = params_of(given, params_file) or None
    chosen = {key: value for key, value in fields.items() if value is not None}
    document = target.create_schedule(workflow_id, name, expression, **chosen)
    if as_json:
        print_json(document)
        return
    found = typed(document, ScheduleOut)
    say_done(f"Schedule created: {found.id} (next {moment(found.next_at) or 'never'})")


def _switch(name: str, help_: str, is_enabled: bool, done: str) -> None:
    @schedule.command(name, help=help_)
    @schedule_argument
    @with_target
    def command(target: Target, schedule_id: str, as_json: bool) -> None:
        document = target.change_schedule(schedule_id, {"is_enabled": is_enabled})
        if as_json:
            print_json(document)
        else:
            say_done(f"Schedule {done}: {typed(document, ScheduleOut).id}")


_switch("pause", "Start nothing by this schedule until it is resumed.", False, "paused")
_switch("resume", "Go on with the next time from now.", True, "resumed")


@schedule.command("trigger")
@schedule_argument
@with_target
def trigger(target: Target, schedule_id: str, as_json: bool) -> None:
    """Start an instance now, whatever its times, its pause and the rule for overlap say."""
    document = target.trigger_schedule(schedule_id)
    if as_json:
        print_json(document)
    else:
        say_done(f"Instance ID: {typed(document, Started).instance_id}")


@schedule.command("delete")
@schedule_argument
@with_target
def delete(target: Target, schedule_id: str, as_json: bool) -> None:
    """Delete a schedule. Instances that it started go on."""
    say_message(target.delete_schedule(schedule_id), as_json=as_json)
