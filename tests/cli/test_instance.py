"""`task-engine instance`: the same on a server and on a database."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from rich.console import Console

from engine.api.workflows.wire import InstanceDetail, InstanceStatus, Progress, TaskInstance, TaskStatus
from engine.cli.status import ICONS, Look, block
from tests.cli.process import Program, without_times

Call = Callable[..., Result]
On = Callable[..., Any]
Start = Callable[..., Program]

WORKFLOW = """
workflows:
  definitions:
    - workflow_id: orders
      tasks:
        - {task_id: load, kind: shell, params: {script: "echo one; echo two >&2"}}
        - {task_id: price, kind: shell, params: {script: "test -e go || exit 4"}, dependencies: [load]}
        - {task_id: book, kind: noop, dependencies: [price]}
"""
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def failed(on: On, call: Call, target: list[str]) -> str:
    """An instance that has failed; it would not if there were a file `go`."""
    on("workflow", "upload", "-", text=WORKFLOW)
    instance_id: str = on("workflow", "execute", "orders", "--wait", code=1)["id"]
    return instance_id


@pytest.fixture
def waiting(call: Call, database_url: str) -> tuple[str, list[str]]:
    """An instance that nobody works on, and the way to it."""
    way = ["--db", database_url]
    assert call("workflow", "upload", "-", *way, text=WORKFLOW).exit_code == 0
    started = call("workflow", "execute", "orders", "--json", *way)
    return json.loads(started.stdout)["instance_id"], way


def error_of(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    return result.stderr


# --- status


def test_the_status_shows_progress_and_tasks(call: Call, target: list[str], failed: str) -> None:
    shown = call("instance", "status", failed, *target)
    assert shown.exit_code == 0  # of the look, not of the instance
    assert re.fullmatch(
        rf"Instance: {failed}\nStatus:   Failed\nProgress: 1/3 \(33%\)\n"
        r"Error:    command failed: exit status 4\nTasks:\n"
        r"  ✅ load   Success  \d\.\ds\n"
        r"  ❌ price  Failed   \d\.\ds  command failed: exit status 4\n"
        r"  ❌ book   Failed         dependency price failed\n",
        shown.stdout,
    ), shown.stdout


def test_what_has_not_started_is_pending(call: Call, waiting: tuple[str, list[str]]) -> None:
    number, way = waiting
    for verb, status in ((None, "Ready"), ("pause", "Paused"), ("resume", "Ready"), ("cancel", "Terminated")):
        if verb is not None:
            call("instance", verb, number, *way)
        lines = call("instance", "status", number, *way).stdout.splitlines()
        assert lines[:3] == [f"Instance: {number}", f"Status:   {status}", "Progress: 0/3 (0%)"]
        first = "  🛑 load   Cancelled" if status == "Terminated" else "  ⏳ load   Pending"
        assert lines[-3].startswith(first)


def test_a_watch_tells_each_task_that_ends_and_its_exit_code_how_it_ended(
    call: Call, target: list[str], failed: str
) -> None:
    watched = call("instance", "status", failed, "--watch", *target)
    lines = watched.stdout.splitlines()
    assert (watched.exit_code, watched.stderr) == (1, "")
    assert [line.split()[1:4] for line in lines[:3]] == [
        ["✅", "load", "Success"],
        ["❌", "price", "Failed"],
        ["❌", "book", "Failed"],
    ]
    assert lines[3:6] == [f"Instance: {failed}", "Status:   Failed", "Progress: 1/3 (33%)"]
    Path("go").touch()
    call("instance", "retry", failed, *target)
    again = call("instance", "status", failed, "--watch", "--json", *target)
    documents = [json.loads(line) for line in again.stdout.splitlines()]
    assert (again.exit_code, documents[-1]["status"]) == (0, "Success")
    assert documents[-1]["progress"]["completed"] == 3


def test_a_watch_begins_before_the_end_and_outlives_it(
    call: Call, start: Start, waiting: tuple[str, list[str]]
) -> None:
    number, way = waiting
    watching = start("instance", "status", number, "--watch", *way)
    watching.line("no worker is alive")
    call("instance", "cancel", number, *way)
    assert watching.wait() == 1
    assert watching.output[-4:] == [
        f"Instance: {number}",
        "Status:   Terminated",
        "Progress: 0/3 (0%)",
        "Error:    context canceled",
    ]


def test_on_a_terminal_the_status_is_drawn_again_until_the_end(
    call: Call, start: Start, waiting: tuple[str, list[str]]
) -> None:
    number, way = waiting
    command = [sys.executable, "-m", "engine", "instance", "status", number, "--watch", *way]
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    ) as watching:
        os.close(terminal)
        text = b""
        while b"Pending" not in text:
            text += os.read(controller, 65536)
        call("instance", "cancel", number, *way)
        try:
            while part := os.read(controller, 65536):
                text += part
        except OSError:  # the other end is closed
            pass
        assert watching.wait() == 1
    os.close(controller)
    shown = text.decode()
    assert shown.index("Ready") < shown.index("\x1b[2K") < shown.index("\x1b[33mTerminated")
    assert "🛑 load" in shown.rpartition("\x1b[2K")[2]


def look(statuses: list[TaskStatus]) -> Look:
    tasks = [
        TaskInstance(id=str(n), task_id=str(n), task_name=f"t{n}", status=status, state="", retry_count=0)
        for n, status in enumerate(statuses)
    ]
    progress = Progress(total=len(tasks), completed=0, running=0, failed=0, pending=0)
    detail = InstanceDetail(
        id="7",
        workflow_id="wf",
        workflow_name="orders",
        status=InstanceStatus.RUNNING,
        started_at=NOW,
        version=1,
        progress=progress,
    )
    return Look({}, detail, tasks)


def text_of(shown: Look, limit: int = 100) -> list[str]:
    out = Console(width=200, emoji=False, highlight=False, markup=False)
    with out.capture() as captured:
        out.print(block(shown, limit))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_of_too_many_tasks_those_are_shown_that_say_most() -> None:
    many = look([TaskStatus.SUCCESS] * 3 + [TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.FAILED])
    assert text_of(many, 3)[4:] == [
        "  ⏳ t3  Pending",
        "  🔄 t4  Running",
        "  ❌ t5  Failed",
        "  … and 3 more; `task-engine instance tasks 7` shows all",
    ]


def test_what_runs_has_run_until_now() -> None:
    running = look([TaskStatus.RUNNING])
    running.tasks[0].started_at = datetime.now(UTC) - timedelta(seconds=150)
    assert text_of(running)[4] == "  🔄 t0  Running  2m30s"


def test_a_workflow_without_tasks_is_done() -> None:
    assert "Progress: 0/0 (100%)" in text_of(look([]))


def test_every_status_has_an_icon() -> None:
    assert {*TaskStatus, *InstanceStatus} == ICONS.keys()


def test_text_of_tasks_cannot_steer_the_terminal() -> None:
    evil = look([TaskStatus.FAILED])
    evil.tasks[0].task_name = evil.tasks[0].error_message = "\x1b[31m[red]"
    assert text_of(evil)[4] == r"  ❌ \x1b[31m[red]  Failed    \x1b[31m[red]"


# --- lists


def test_the_history_has_the_columns_of_the_contract(call: Call, target: list[str], failed: str) -> None:
    header, row = call("instance", "history", "orders", *target).stdout.splitlines()
    assert header.split() == ["INSTANCE_ID", "STATUS", "STARTED_AT", "DURATION"]
    assert re.fullmatch(rf"{failed} +Failed  {TIME}  +\d\.\ds", row), row
    header, row = call("instance", "history", "orders", "--status", "failed", *target).stdout.splitlines()
    assert header.split() == ["INSTANCE_ID", "STATUS", "STARTED_AT", "ERROR"]
    assert re.fullmatch(rf"{failed} +Failed  {TIME}  command failed: exit status 4", row), row
    header, row = call("instance", "list", *target).stdout.splitlines()
    assert header.split() == ["INSTANCE_ID", "STATUS", "STARTED_AT", "DURATION", "WORKFLOW"]
    assert row.endswith("orders")


def test_a_long_error_is_cut_at_30_characters(call: Call, target: list[str], on: On) -> None:
    on(
        "workflow",
        "upload",
        "-",
        text=WORKFLOW.replace("kind: noop", "kind: file, params: {action: read, path: " + "x" * 40 + "}"),
    )
    Path("go").touch()
    on("workflow", "execute", "orders", "--wait", code=1)
    row = call("instance", "history", "orders", "--status", "Failed", *target).stdout.splitlines()[1]
    error = re.split(rf"{TIME}  ", row)[1]
    assert len(error) == 30 and error.endswith("…")


def test_lists_are_read_page_by_page_in_either_order(call: Call, waiting: tuple[str, list[str]]) -> None:
    first, way = waiting
    more = [json.loads(call("instance", "rerun", first, "--json", *way).stdout)["instance_id"] for _ in "ab"]
    ids = [first, *more]

    def listed(*arguments: str) -> tuple[list[str], str]:
        result = call("instance", *arguments, *way)
        assert result.exit_code == 0, result.output
        return [line.split()[0] for line in result.stdout.splitlines()[1:]], result.stderr

    hint = "there are more: --offset 2 reads on, --limit N shows more\n"
    for command in (("list",), ("history", "orders")):
        assert listed(*command, "--limit", "2") == (ids[:0:-1], hint)
        assert listed(*command, "--limit", "2", "--offset", "2") == (ids[:1], "")
    assert listed("history", "orders", "--order", "asc") == (ids, "")
    assert listed("list", "--status", "READY")[0] == ids[::-1]
    paged = json.loads(call("instance", "list", "--limit", "1", "--json", *way).stdout)
    assert (paged["total"], len(paged["items"]), paged["has_more"]) == (3, 1, True)


def test_an_empty_list_says_so(call: Call, waiting: tuple[str, list[str]]) -> None:
    _, way = waiting
    for arguments, notice in {
        ("list", "--status", "Success"): "no instances with status Success\n",
        ("history", "orders", "--status", "failed"): "no instances with status Failed\n",
        ("list", "--offset", "5"): "no instances after the first 1\n",
    }.items():
        result = call("instance", *arguments, *way)
        assert (result.exit_code, result.stdout) == (0, notice)
    call("workflow", "upload", "-", *way, text=WORKFLOW.replace("orders", "fresh"))
    assert call("instance", "history", "fresh", *way).stdout == "no instances\n"


def test_tasks_are_listed_with_their_errors(call: Call, target: list[str], failed: str) -> None:
    header, *rows = call("instance", "tasks", failed, *target).stdout.splitlines()
    assert header.split() == ["TASK", "STATUS", "RETRIES", "STARTED_AT", "DURATION", "ERROR"]
    assert re.fullmatch(rf"✅ load   Success +{TIME} +\d\.\ds", rows[0]), rows[0]
    assert re.fullmatch(rf"❌ price  Failed +{TIME} +\d\.\ds  command failed: exit status 4", rows[1])
    assert re.fullmatch(r"❌ book   Failed +dependency price failed", rows[2])


def test_logs_are_of_all_tasks_or_of_one(call: Call, target: list[str], failed: str) -> None:
    everything = call("instance", "logs", failed, "--follow", *target)
    assert sorted(without_times(everything.stdout)) == ["load#1 | one", "load#1 | two"]
    one = call("instance", "logs", failed, "--task", "load", *target)
    assert (without_times(one.stdout), without_times(one.stderr)) == (["#1 | one"], ["#1 | two"])
    lines = call("instance", "logs", failed, "--json", *target).stdout.splitlines()
    assert {json.loads(line)["stream"] for line in lines} == {"stdout", "stderr"}
    nobody = call("instance", "logs", failed, "--task", "nope", *target)
    assert error_of(nobody) == f"error: run {failed} has no task 'nope'\n"


# --- control


def test_an_instance_is_controlled(call: Call, waiting: tuple[str, list[str]]) -> None:
    number, way = waiting
    told = {
        "pause": "Instance paused",
        "resume": "Instance resumed",
        "cancel": "Instance cancelled",
        "retry": "Instance goes on",
    }
    for verb, words in told.items():
        done = call("instance", verb, number, *way)
        assert (done.exit_code, done.stdout) == (0, f"✅ {words}: {number}\n")
    refused = error_of(call("instance", "retry", number, *way))
    assert refused.startswith(f"error: instance {number} is Ready; only ")


def test_a_rerun_is_a_new_instance_whose_parameters_may_change(on: On, call: Call, target: list[str]) -> None:
    text = WORKFLOW.replace("orders\n", "orders\n      params: {day: 1, who: me}\n")
    on("workflow", "upload", "-", text=text)
    first = on("workflow", "execute", "orders", "-p", "day=2")["instance_id"]
    again = call("instance", "rerun", first, "-p", "who=you", *target)
    found = re.fullmatch(r"✅ Instance ID: (\d+)\n", again.stdout)
    assert found and found[1] != first
    assert on("instance", "status", found[1])["params"] == {"day": 2, "who": "you"}


def test_an_instance_that_is_not_there_is_said_alike(call: Call, target: list[str]) -> None:
    graph = '{"tasks": [{"name": "a", "kind": "noop"}]}'
    call("task", "submit", "-", *target, text=graph)  # run 1 is no instance of a workflow
    commands = ["status", "tasks", "logs", "pause", "resume", "cancel", "retry", "rerun"]
    for name in ("1", "99", "0", "inst-x", "..", "9" * 30):
        for command in commands if name == "1" else commands[:4]:
            result = call("instance", command, name, *target)
            assert error_of(result) == f"error: instance not found: {name}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        *[("list", "--status", "Done"), ("list", "--limit", "0"), ("list", "--limit", "101")],
        *[("list", "--offset", "-1"), ("history", "orders", "--order", "up"), ("status", "")],
        *[("status", "\udcff"), ("status",), ("history",), ("rerun", "1", "-p", "day")],
    ],
)
def test_what_cannot_be_meant_is_wrong_usage(call: Call, arguments: tuple[str, ...]) -> None:
    result = call("instance", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(("error: Invalid value for ", "error: Missing argument "))


def test_a_session_as_people_have_it(call: Call, target: list[str]) -> None:
    def typed(line: str, code: int = 0) -> list[str]:
        result = call(*line.split(), *target)
        assert (result.exit_code, result.stderr) == (code, ""), result.output
        return result.stdout.splitlines()

    Path("my-workflow.yaml").write_text(WORKFLOW)
    [uploaded] = typed("workflow upload ./my-workflow.yaml")
    workflow = uploaded.split()[3]
    assert typed("workflow list")[1].split()[:3] == [workflow, "orders", "3"]
    [started] = typed(f"workflow execute {workflow}")
    number = started.removeprefix("✅ Instance ID: ")
    typed(f"instance status {number} --watch", code=1)
    assert typed(f"instance status {number}")[:3] == [
        f"Instance: {number}",
        "Status:   Failed",
        "Progress: 1/3 (33%)",
    ]
    assert len(typed(f"instance history {workflow} --limit=5")) == 2
    assert typed(f"instance history {workflow} --status=Failed --limit=10")[1].endswith("status 4")
    typed(f"workflow delete {workflow}")
    assert typed("workflow list") == ["no workflows; `task-engine workflow upload FILE` saves some"]
    assert typed("instance list")[1].split()[0] == number  # instances stay
