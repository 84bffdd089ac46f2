"""`task-engine workflow`: upload definitions, look at them, execute them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import rich_click as click

from engine.api.workflows.wire import (
    RealtimeTaskOut,
    Started,
    Uploaded,
    WorkflowDetail,
    Workflows,
    WorkflowSummary,
    WorkflowTaskOut,
)
from engine.cli.definitions import checked, checks_without_database, texts_of
from engine.cli.instances import note_more, say_message, show_end, watch_to_end
from engine.cli.options import FILE, NAME, json_option, key_option, paging_options
from engine.cli.output import (
    date_and_time,
    one_line,
    print_json,
    say,
    say_done,
    show_facts,
    show_table,
)
from engine.cli.params import params_of, params_options
from engine.cli.target import Target, mention_idleness, repeatable, with_target
from engine.cli.waiting import timeout_option
from engine.client.answers import typed
from engine.definitions import json_schema
from engine.executors.base import ExecutorSettings
from engine.executors.registry import ExecutorRegistry
from engine.model.json import JSON
from engine.model.workflows import Workflow

workflow_argument = click.argument("workflow_id", metavar="WORKFLOW", type=NAME)
files_argument = click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)


@click.group("workflow")
def workflow() -> None:
    """Upload, check, list, show, enable, disable, execute and delete workflows.

    WORKFLOW is the id or the name of one.
    """


@workflow.command("upload")
@files_argument
@with_target
def upload(target: Target, files: Sequence[str], as_json: bool) -> None:
    """Save the workflows of YAML files (`-` reads standard input): all of them, or none.

    A job in one file is known in all. A name that is known gets a new version. `${NAME}` and
    `${NAME:default}` are replaced from the environment of this command.
    """
    document = target.upload_workflows(texts_of(files))
    if as_json:
        print_json(document)
        return
    for saved in typed(document, Uploaded).workflows:
        say_done(f"Workflow uploaded: {saved.id} ({one_line(saved.name, 60)}, version {saved.version})")


@workflow.command("validate")
@files_argument
@json_option
def validate(files: Sequence[str], as_json: bool) -> None:
    """Check YAML files without a server or a database.

    Names of functions are not checked: they are registered in a database.
    """
    kinds = ExecutorRegistry.from_entry_points(ExecutorSettings())
    found = checked(texts_of(files), checks_without_database(kinds))
    if as_json:
        print_json([{"name": each.name, "task_count": _task_count(each)} for each in found])
        return
    for each in found:
        say_done(f"{one_line(each.name, 60)}: {_counted(_task_count(each))}")


def _task_count(found: Workflow) -> int:
    return len(found.tasks) + len(found.realtime_tasks)


def _counted(number: int) -> str:
    return f"{number} {'task' if number == 1 else 'tasks'}"


@workflow.command("schema")
@json_option
def schema(as_json: bool) -> None:
    """Print the JSON Schema of workflow files, for editors."""
    print_json(json_schema())


@workflow.command("list")
@paging_options(None)
@with_target
def list_(target: Target, limit: int | None, offset: int, as_json: bool) -> None:
    """List workflows, last created first."""
    document = target.workflows(limit=limit, offset=offset)
    if as_json:
        print_json(document)
        return
    found = typed(document, Workflows)
    if not found.total:
        say("no workflows; `task-engine workflow upload FILE` saves some")
        return
    show_table(
        ("ID", "NAME", "TASKS", "CREATED"),
        (
            (each.id, one_line(each.name, 60), each.task_count, date_and_time(each.created_at))
            for each in found.items
        ),
    )
    if found.has_more:
        note_more(offset + len(found.items))


@workflow.command("show")
@workflow_argument
@click.option("--version", type=click.IntRange(1, 2**31 - 1), metavar="N", help="Not the newest version.")
@click.option("--yaml", "as_yaml", is_flag=True, help="Print the definition, as `upload` reads it.")
@with_target
def show(target: Target, workflow_id: str, version: int | None, as_yaml: bool, as_json: bool) -> None:
    """Show a workflow and its tasks."""
    if as_yaml and as_json:
        raise click.UsageError("give --yaml or --json, not both")
    if as_yaml:
        click.echo(target.workflow_definition(workflow_id, version), nl=False)
        return
    document = target.workflow(workflow_id, version)
    if as_json:
        print_json(document)
        return
    found = typed(document, WorkflowDetail)
    show_facts(_facts(found))
    if found.tasks:
        say("")
        show_tasks(found.tasks)
    if found.realtime_tasks:
        say("")
        show_realtime_tasks(found.realtime_tasks)


def show_tasks(tasks: Sequence[WorkflowTaskOut]) -> None:
    show_table(
        ("TASK", "DEPENDS_ON", "TIMEOUT", "RETRIES", "DESCRIPTION"),
        (
            (
                one_line(task.name, 60),
                one_line(", ".join(task.dependencies or ()), 60),
                "" if task.timeout is None else f"{task.timeout:g}s",
                task.retry_count or "",
                one_line(task.description, 60),
            )
            for task in tasks
        ),
        right=("TIMEOUT", "RETRIES"),
    )


def show_realtime_tasks(tasks: Sequence[RealtimeTaskOut]) -> None:
    show_table(
        ("REALTIME_TASK", "DEPENDS_ON", "MODE", "SOURCE", "FUNCTION", "EVENTS"),
        (
            (
                one_line(task.name, 60),
                one_line(", ".join(task.dependencies or ()), 60),
                task.mode,
                one_line(task.protocol or task.collector, 60),
                one_line(task.function, 60),
                one_line(", ".join(each.event for each in task.subscriptions or ()), 60),
            )
            for task in tasks
        ),
    )


def _facts(found: WorkflowSummary) -> list[tuple[str, object]]:
    return [
        ("id", found.id),
        ("name", found.name),
        ("description", one_line(found.description, 500) or None),
        ("version", found.version),
        ("status", found.status),
        ("cron", found.cron_expr),
        ("tasks", found.task_count),
        ("created", date_and_time(found.created_at)),
        ("changed", date_and_time(found.changed_at)),
    ]


@workflow.command("versions")
@workflow_argument
@paging_options(20)
@with_target
def versions(target: Target, workflow_id: str, limit: int, offset: int, as_json: bool) -> None:
    """List the versions of a workflow, newest first."""
    document = target.workflow_versions(workflow_id, limit=limit, offset=offset)
    if as_json:
        print_json(document)
        return
    found = typed(document, Workflows)
    show_table(
        ("VERSION", "NAME", "TASKS", "SAVED", "DESCRIPTION"),
        (
            (
                each.version,
                one_line(each.name, 60),
                each.task_count,
                date_and_time(each.changed_at),
                one_line(each.description, 60),
            )
            for each in found.items
        ),
    )
    if found.has_more:
        note_more(offset + len(found.items))


def _control(name: str, help_: str, act: Callable[[Target, str], dict[str, Any]]) -> None:
    @workflow.command(name, help=help_)
    @workflow_argument
    @with_target
    def command(target: Target, workflow_id: str, as_json: bool) -> None:
        say_message(act(target, workflow_id), as_json=as_json)


_control("enable", "Let a workflow be executed again.", lambda t, key: t.enable_workflow(key, True))
_control(
    "disable",
    "Let a workflow start no more instances; those that run go on.",
    lambda t, key: t.enable_workflow(key, False),
)
_control(
    "delete",
    "Delete a workflow with all its versions. Refused while it has unfinished instances.",
    lambda t, key: t.delete_workflow(key),
)


@workflow.command("execute")
@workflow_argument
@params_options
@key_option("An execution")
@click.option("--wait", is_flag=True, help="Wait until the instance has ended; the exit code says how.")
@click.option("--watch", is_flag=True, help="Show how it goes until it has ended.")
@timeout_option
@with_target
def execute(
    target: Target,
    workflow_id: str,
    given: tuple[tuple[str, JSON], ...],
    params_file: str | None,
    key: str | None,
    wait: bool,
    watch: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Start an instance of a workflow."""
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    if wait and watch:
        raise click.UsageError("give --wait or --watch, not both")
    params = params_of(given, params_file)
    key = uuid.uuid4().hex if key is None else key
    with repeatable(key, "the instance was started"):
        document = target.execute(workflow_id, params, key=key)
    started = typed(document, Started)
    if as_json and not (wait or watch):
        print_json(document)
    elif not as_json:
        say_done(f"Instance ID: {started.instance_id}")
    if wait or watch:
        mention_idleness(target)
    if watch:
        watch_to_end(target, started.instance_id, as_json=as_json)
    elif wait:
        show_end(target, started.instance_id, timeout, as_json=as_json)
