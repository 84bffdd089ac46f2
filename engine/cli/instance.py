"""`task-engine instance`: look at instances of workflows and control them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rich_click as click

from engine.api.workflows.wire import (
    InstanceDetail,
    Instances,
    InstanceStatus,
    InstanceSummary,
    Order,
    Started,
    TaskInstance,
)
from engine.cli.instances import note_more, say_message, show_status, watch_to_end
from engine.cli.logs import logs_options, show_logs
from engine.cli.options import NAME, paging_options, reason_option, stacked
from engine.cli.output import (
    date_and_time,
    note,
    one_line,
    print_json,
    say,
    say_done,
    show_table,
)
from engine.cli.params import Value, params_of, params_options
from engine.cli.status import ICONS, look_at
from engine.cli.target import Target, mention_idleness, with_target
from engine.client.answers import typed
from engine.model.json import JSON

_ERROR_WIDTH = 30

instance_argument = click.argument("instance_id", metavar="INSTANCE", type=NAME)
list_options = stacked(
    click.option(
        "--status",
        type=click.Choice([str(status) for status in InstanceStatus], case_sensitive=False),
        help="Only instances with this status.",
    ),
    paging_options(20),
)


@click.group("instance")
def instance() -> None:
    """List, show, watch, signal, pause, resume, cancel, retry and rerun instances of workflows; read logs."""


# --- look


@instance.command("list")
@list_options
@with_target
def list_(target: Target, status: str | None, limit: int, offset: int, as_json: bool) -> None:
    """List instances of all workflows, newest first."""
    document = target.instances(status=status, limit=limit, offset=offset)
    _show_list(document, status, offset, as_json, with_workflow=True)


@instance.command("history")
@click.argument("workflow_id", metavar="WORKFLOW", type=NAME)
@list_options
@click.option(
    "--order",
    type=click.Choice([str(order) for order in Order]),
    default=str(Order.NEWEST_FIRST),
    show_default=True,
    help="desc: newest first.",
)
@with_target
def history(
    target: Target,
    workflow_id: str,
    status: str | None,
    limit: int,
    offset: int,
    order: str,
    as_json: bool,
) -> None:
    """List the instances of one workflow."""
    document = target.history(workflow_id, status=status, limit=limit, offset=offset, order=order)
    _show_list(document, status, offset, as_json, with_workflow=False)


def _show_list(
    document: dict[str, Any], status: str | None, offset: int, as_json: bool, *, with_workflow: bool
) -> None:
    if as_json:
        print_json(document)
        return
    found = typed(document, Instances)
    if not found.items:
        say(_nothing(found.total, status, offset))
        return
    columns = _columns(status, with_workflow)
    show_table(list(columns), ([cell(item) for cell in columns.values()] for item in found.items))
    if found.has_more:
        note_more(offset + len(found.items))


def _nothing(total: int, status: str | None, offset: int) -> str:
    which = f"no instances with status {status}" if status else "no instances"
    return f"{which} after the first {total}" if offset and total else which


def _columns(status: str | None, with_workflow: bool) -> dict[str, Callable[[InstanceSummary], object]]:
    columns: dict[str, Callable[[InstanceSummary], object]] = {
        "INSTANCE_ID": lambda item: item.id,
        "STATUS": lambda item: item.status,
        "STARTED_AT": lambda item: date_and_time(item.started_at),
    }
    if status == InstanceStatus.FAILED:
        columns["ERROR"] = lambda item: one_line(item.error_message, _ERROR_WIDTH)
    else:
        columns["DURATION"] = lambda item: item.duration or ""
    if with_workflow:
        columns["WORKFLOW"] = lambda item: one_line(item.workflow_name, 60)
    return columns


@instance.command("status")
@instance_argument
@click.option("--watch", is_flag=True, help="Go on until it has ended; the exit code says how.")
@with_target
def status_(target: Target, instance_id: str, watch: bool, as_json: bool) -> None:
    """Show how far an instance is, and its tasks."""
    look = look_at(target, instance_id)
    if not watch:
        show_status(look, as_json=as_json)
        return
    if not look.is_over:
        mention_idleness(target)
    watch_to_end(target, look.detail.id, as_json=as_json)


@instance.command("tasks")
@instance_argument
@with_target
def tasks(target: Target, instance_id: str, as_json: bool) -> None:
    """List all tasks of an instance, in the order of the workflow."""
    document = target.instance_tasks(instance_id)
    if as_json:
        print_json(document)
        return
    found = [typed(task, TaskInstance) for task in document]
    if not found:
        say("no tasks")
        return
    show_table(
        ("TASK", "STATUS", "RETRIES", "STARTED_AT", "DURATION", "ERROR"),
        (
            (
                f"{ICONS[task.status]} {one_line(task.task_name, 60)}",
                task.status,
                task.retry_count or "",
                date_and_time(task.started_at),
                task.duration or "",
                one_line(task.error_message, 100),
            )
            for task in found
        ),
        right=("RETRIES", "DURATION"),
    )


@instance.command("logs")
@instance_argument
@logs_options
@with_target
def logs(target: Target, instance_id: str, task_name: str | None, follow: bool, as_json: bool) -> None:
    """Print what the tasks of an instance wrote: time, task and number of the attempt before each line."""
    found = typed(target.instance(instance_id), InstanceDetail)
    show_logs(target, int(found.id), task_name=task_name, follow=follow, as_json=as_json)


# --- control


def _control(name: str, help_: str, act: Callable[[Target, str], dict[str, Any]]) -> None:
    @instance.command(name, help=help_)
    @instance_argument
    @with_target
    def command(target: Target, instance_id: str, as_json: bool) -> None:
        say_message(act(target, instance_id), as_json=as_json)


_control(
    "pause", "Start no further task until resumed; running ones go on.", lambda t, i: t.pause_instance(i)
)
_control("resume", "Let a paused instance go on.", lambda t, i: t.resume_instance(i))
_control(
    "retry",
    "Run again what did not succeed; results of the rest stay.",
    lambda t, i: t.retry_instance(i),
)


@instance.command("cancel")
@instance_argument
@reason_option(is_required=False)
@with_target
def cancel(target: Target, instance_id: str, reason: str | None, as_json: bool) -> None:
    """End an instance; running tasks are stopped."""
    say_message(target.cancel_instance(instance_id, reason), as_json=as_json)


@instance.command("rerun")
@instance_argument
@params_options
@with_target
def rerun(
    target: Target,
    instance_id: str,
    given: tuple[tuple[str, JSON], ...],
    params_file: str | None,
    as_json: bool,
) -> None:
    """Start the same version once more, as a new instance; parameters may be changed one by one."""
    document = target.rerun_instance(instance_id, params_of(given, params_file))
    if as_json:
        print_json(document)
    else:
        say_done(f"Instance ID: {typed(document, Started).instance_id}")


# --- tell


@instance.command("signal")
@instance_argument
@click.argument("name", metavar="NAME", type=NAME)
@click.option("--value", type=Value(), metavar="JSON", help="What the task gets, as JSON or else as text.")
@with_target
def signal(target: Target, instance_id: str, name: str, value: JSON, as_json: bool) -> None:
    """Let one task that waits for this signal go on, now or later."""
    run_id = int(typed(target.instance(instance_id), InstanceDetail).id)
    number = target.signal(run_id, name, value)
    if as_json:
        print_json({"run_id": run_id, "name": name, "number": number})
    else:
        say_done(f"Signal sent: {name} (number {number})")


@instance.command("publish")
@instance_argument
@click.argument("type_", metavar="TYPE", type=NAME)
@click.option("--payload", type=Value(), metavar="JSON", help="What tasks get, as JSON or else as text.")
@with_target
def publish(target: Target, instance_id: str, type_: str, payload: JSON, as_json: bool) -> None:
    """Give an event to the event-driven tasks of an instance that take its type."""
    document = target.publish(instance_id, type_, payload)
    if as_json:
        print_json(document)
        return
    taken = ", ".join(document["tasks"]) or "nobody"
    say_done(f"Event published: {document['event_id']} (to {one_line(taken, 200)})")
    if document["dropped"]:
        note(f"note: no room for it in {one_line(', '.join(document['dropped']), 200)}")
