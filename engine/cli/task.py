"""`task-engine task`: tasks by the names that the ExecGo contract gives them, and submits of either shape."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import rich_click as click
from click.exceptions import Exit

from engine.cli.options import FILE, NAME, key_option
from engine.cli.output import (
    duration,
    moment,
    note,
    one_line,
    print_json,
    say,
    show_facts,
    show_table,
)
from engine.cli.program import FAILED
from engine.cli.summary import SHOWN_FAILED, run_document, say_hints, show_tasks, totals
from engine.cli.target import Target, mention_idleness, on_each, repeatable, with_target
from engine.cli.waiting import give_up, timeout_option, wait_for
from engine.client.documents import read
from engine.client.rest import FINAL_STATUSES, ContractTask
from engine.model.states import FINAL_RUN_STATES, RunState, TaskState

_STATUSES = ("pending", "running", "success", "failed", "skipped")

task_argument = click.argument("task_id", metavar="TASK", type=NAME)
tasks_argument = click.argument("task_ids", metavar="TASK...", type=NAME, nargs=-1, required=True)


@click.group("task")
def task() -> None:
    """Submit graphs; look at, wait for, cancel and delete tasks.

    Tasks are named as in ExecGo graphs (`id`). Tasks of other graphs: `task-engine runs show RUN`.
    """


@task.command("submit")
@click.argument("file", type=FILE)
@key_option("A submit")
@click.option(
    "--wait", is_flag=True, help="Wait until the tasks have ended; the exit code says whether they succeeded."
)
@timeout_option
@with_target
def submit(
    target: Target, file: str, key: str | None, wait: bool, timeout: float | None, as_json: bool
) -> None:
    """Submit the graph in FILE (JSON or YAML, `-` reads standard input). Done means stored."""
    if timeout is not None and not wait:
        raise click.UsageError("--timeout needs --wait")
    document = read(file)
    key = uuid.uuid4().hex if key is None else key
    with repeatable(key, "the graph was accepted"):
        submitted = target.submit(document, key)
    mention_idleness(target)
    names = submitted.task_names
    if not wait:
        if as_json:
            print_json(
                {
                    "run_id": submitted.run_id,
                    "accepted": len(names),
                    "task_ids": names,
                    "is_repeat": submitted.is_repeat,
                }
            )
        else:
            where = f" as run {submitted.run_id}" if submitted.run_id is not None else ""
            repeat = " (repeat)" if submitted.is_repeat else ""
            say(f"accepted {len(names)} {'task' if len(names) == 1 else 'tasks'}{where}{repeat}")
        return
    if submitted.run_id is not None:
        _wait_for_run(target, submitted.run_id, timeout, as_json)
    else:
        _wait_for_tasks(target, names, timeout, as_json)


@task.command("get")
@task_argument
@with_target
def get(target: Target, task_id: str, as_json: bool) -> None:
    """Show a task, with its result."""
    found = target.contract_task(task_id)
    if as_json:
        print_json(found.document)
        return
    runtime = found.runtime
    show_facts(
        [
            ("task", found.id),
            ("type", found.type),
            ("tool", found.tool_name),
            ("status", found.status),
            ("attempt", runtime.get("attempt")),
            ("created", moment(found.created_at)),
            ("updated", moment(found.updated_at)),
            ("duration", duration(_milliseconds(found)) or None),
            ("error", found.error),
        ]
    )
    say_hints([found.runtime.get("error")])
    if "result" in found.document:
        say("")
        print_json(found.document["result"])


@task.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only tasks with this status.")
@click.option("--type", "type_", metavar="TYPE", help="Only tasks of this type.")
@click.option(
    "--limit", type=click.IntRange(1, 9_999), default=50, show_default=True, help="How many at most."
)
@click.option("--offset", type=click.IntRange(0, 1_000_000_000), default=0, help="Leave out the first ones.")
@with_target
def list_(
    target: Target, status: str | None, type_: str | None, limit: int, offset: int, as_json: bool
) -> None:
    """List tasks in the order of submission."""
    found = target.contract_tasks(status=status, type_=type_, limit=limit + 1, offset=offset)
    if as_json:
        print_json([item.document for item in found[:limit]])
        return
    _show(found[:limit])
    if len(found) > limit:
        note(f"there are more, submitted later: --offset {offset + limit} reads on, --limit N shows more")


@task.command("wait")
@tasks_argument
@timeout_option
@with_target
def wait(target: Target, task_ids: tuple[str, ...], timeout: float | None, as_json: bool) -> None:
    """Wait until tasks have ended; the exit code says whether all succeeded."""
    mention_idleness(target)
    _wait_for_tasks(target, list(task_ids), timeout, as_json)


@task.command("cancel")
@tasks_argument
@with_target
def cancel(target: Target, task_ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel tasks: at once if they have not started, otherwise their worker stops them."""
    with on_each(task_ids, target.cancel_contract_task) as changed:
        if as_json:
            print_json([item.document for item in changed.values()])
            return
        for item in changed.values():
            state = "stopping" if item.status == "running" else "cancelled"
            say(f"task {item.id}: {state}")


@task.command("delete")
@tasks_argument
@with_target
def delete(target: Target, task_ids: tuple[str, ...], as_json: bool) -> None:
    """Forget tasks. What had not started is cancelled; running work goes on unseen."""
    with on_each(task_ids, target.delete_contract_task) as deleted:
        if as_json:
            print_json({"deleted": list(deleted)})
        elif deleted:
            say(f"deleted {', '.join(deleted)}")


# --- waiting


def _wait_for_tasks(target: Target, task_ids: Sequence[str], timeout: float | None, as_json: bool) -> None:
    """Ends with exit code 0 if all succeeded, 124 if time ran out, else 1."""
    found: dict[str, ContractTask] = {}

    def has_ended(task_id: str) -> bool:
        return task_id in found and found[task_id].status in FINAL_STATUSES

    def is_over() -> bool:
        for task_id in task_ids:
            if not has_ended(task_id):
                found[task_id] = target.contract_task(task_id)
        return all(map(has_ended, task_ids))

    in_time = wait_for(is_over, timeout)
    if as_json:
        print_json([item.document for item in found.values()])
    else:
        _show(list(found.values()))
    if not in_time:
        give_up(timeout, ", ".join(name for name in task_ids if not has_ended(name)))
    raise Exit(0 if all(item.status == "success" for item in found.values()) else FAILED)


def _wait_for_run(target: Target, run_id: int, timeout: float | None, as_json: bool) -> None:
    run = target.run(run_id)

    def is_over() -> bool:
        nonlocal run
        run = target.run(run_id)
        return run.state in FINAL_RUN_STATES

    in_time = wait_for(is_over, timeout)
    if as_json:
        print_json(run_document(run))
    else:
        if run.failed:
            show_tasks(target.tasks(run_id, state=TaskState.FAILED, limit=SHOWN_FAILED))
        say(totals(run))
    if not in_time:
        give_up(timeout, f"run {run_id}")
    raise Exit(0 if run.state is RunState.SUCCEEDED else FAILED)


def _show(found: Sequence[ContractTask]) -> None:
    show_table(
        ("TASK", "TYPE", "STATUS", "ATTEMPT", "DURATION", "UPDATED", "ERROR"),
        (
            (
                one_line(item.id, 60),
                one_line(item.tool_name or item.type, 30),
                item.status,
                item.runtime.get("attempt", ""),
                duration(_milliseconds(item)),
                moment(item.updated_at),
                one_line(item.error, 100),
            )
            for item in found
        ),
        right=("ATTEMPT", "DURATION"),
    )
    say_hints(item.runtime.get("error") for item in found)


def _milliseconds(item: ContractTask) -> int | None:
    """Of the last attempt. The contract leaves out a duration of zero."""
    if "finished_at" not in item.runtime:
        return None
    return int(item.runtime.get("duration_ms", 0))
