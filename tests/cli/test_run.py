"""`task-engine run`: exit codes, summaries, signals, and going on with a stored run."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from engine.errors import StoreUnavailable
from engine.operations import runs
from tests.cli.process import Program, wait_for_file, wait_until_gone
from tests.support.postgres import Server

Call = Callable[..., Result]
Start = Callable[..., Program]


def graph(*tasks: dict[str, Any], name: str = "test", path: str = "graph.json") -> str:
    Path(path).write_text(json.dumps({"name": name, "tasks": list(tasks)}))
    return path


def task(name: str, kind: str = "noop", *depends_on: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "depends_on": list(depends_on), "params": params or None}


def script(name: str, text: str, *depends_on: str) -> dict[str, Any]:
    return task(name, "shell", *depends_on, script=text)


def test_a_run_that_succeeds_ends_with_0_and_shows_every_task(call: Call) -> None:
    result = call("run", graph(task("first"), task("second", "noop", "first")))
    assert result.exit_code == 0, result.output
    assert "run 1 test: succeeded in" in result.stdout
    assert "(2 tasks: 2 succeeded)" in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines() if "noop" in line] == ["first", "second"]
    assert "[1/2]" in result.stdout and "[2/2]" in result.stdout


def test_a_run_that_fails_ends_with_1_and_says_why(call: Call) -> None:
    result = call(
        "run", graph(script("bad", "echo one >&2; echo two >&2; exit 3"), task("after", "noop", "bad"))
    )
    assert result.exit_code == 1
    assert "command failed: exit status 3: two\n" in result.stdout
    assert "dependency bad failed" in result.stdout
    assert "go on with: task-engine run --resume 1" in result.stdout


def test_json_is_one_document_and_nothing_else(call: Call) -> None:
    result = call("run", graph(task("a")), "--json")
    summary = json.loads(result.stdout)
    assert summary["run"]["state"] == "succeeded"
    assert summary["tasks"][0]["name"] == "a"
    assert isinstance(summary["run"]["duration_ms"], int)
    assert result.stderr == ""


def test_a_graph_in_execgo_shape_runs_too(call: Call) -> None:
    Path("graph.yaml").write_text(
        "tasks:\n- {id: a, type: noop}\n- {id: b, type: os, tool_name: sleep, "
        "params: {duration_ms: 1}, depends_on: [a]}\n"
    )
    result = call("run", "graph.yaml", "--json")
    assert [item["kind"] for item in json.loads(result.stdout)["tasks"]] == ["noop", "sleep"]


def test_tasks_of_an_execgo_graph_are_known_by_their_ids_afterwards(call: Call) -> None:
    Path("graph.json").write_text('{"tasks": [{"id": "load", "type": "noop"}]}')
    assert call("run", "graph.json").exit_code == 0
    assert json.loads(call("task", "get", "load", "--json").stdout)["status"] == "success"


def test_a_file_in_use_comes_with_who_has_it_and_what_to_do(start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0")
    server.event("server.started")
    result = call("run", graph(task("a")))
    user = f"data/task-engine.db is in use by process {server.process.pid}"
    assert result.exit_code == 3
    assert result.stderr == f"error: {user}; use `task-engine task submit --wait`, or another --data-dir\n"
    assert call("server", "start", "--port", "0").stderr == (
        f"error: {user}; stop it, or start both with --shared\n"
    )


def test_a_large_run_lists_only_what_did_not_succeed(call: Call) -> None:
    many = [task(f"fine-{number}") for number in range(100)]
    result = call("run", graph(*many, script("bad", "exit 1")))
    assert result.exit_code == 1
    rows = [
        line for line in result.stdout.partition("TASK")[2].splitlines() if "shell" in line or "noop" in line
    ]
    assert [row.split()[0] for row in rows] == ["bad"]


def test_wide_names_stay_in_their_column_and_control_characters_do_nothing(call: Call) -> None:
    result = call("run", graph(task("日本語"), script("ab", r"printf 'x\033[31m'; exit 1")))
    lines = [line for line in result.stdout.splitlines() if line.endswith("s") and "succeeded" in line]
    assert any(line.startswith("日本語  noop") for line in lines)
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a.json", "--resume", "1"),
        ("a", "b"),
        ("--resume", "x"),
        ("--nope",),
        ("a", "--max-concurrency", "0"),
    ],
)
def test_wrong_usage_ends_with_2(call: Call, arguments: tuple[str, ...]) -> None:
    result = call("run", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "task-engine run --help" in result.stderr


def test_a_failed_run_goes_on_with_what_had_not_succeeded(call: Call) -> None:
    graph(script("once", "echo >> ran"), script("gate", "test -e open", "once"), path="graph.json")
    assert call("run", "graph.json").exit_code == 1
    Path("open").touch()
    result = call("run", "--resume", "1", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["run"]["id"] == 1
    assert Path("ran").read_text() == "\n"
    assert call("run", "--resume", "1").exit_code == 0  # it has succeeded: nothing is left to do
    assert Path("ran").read_text() == "\n"


def test_resuming_an_unknown_run_fails(call: Call) -> None:
    assert call("run", graph(task("a"))).exit_code == 0
    result = call("run", "--resume", "99")
    assert result.exit_code == 1
    assert result.stderr == "error: run not found: 99\n"


def test_a_database_that_does_not_answer_ends_with_3(call: Call) -> None:
    file = graph(task("a"))
    result = call("run", file, "--db", "postgresql://user:hunter2@127.0.0.1:1/nothing")
    assert result.exit_code == 3
    assert "is not available" in result.stderr
    assert "hunter2" not in result.output


def test_a_schema_that_is_behind_ends_with_3(call: Call, cluster: Server) -> None:
    result = call("run", graph(task("a")), "--db", cluster.url("postgres"))
    assert result.exit_code == 3
    assert "task-engine db upgrade" in result.stderr


def test_a_file_that_is_no_database_ends_with_3(call: Call) -> None:
    Path("notes.db").write_text("these are notes, not a database\n" * 100)
    result = call("run", graph(task("a")), "--db", "sqlite:///notes.db")
    assert result.exit_code == 3
    assert "not a database" in result.stderr


def test_it_runs_on_either_database(call: Call, database_url: str) -> None:
    result = call("run", graph(task("a"), task("b", "noop", "a")), "--db", database_url)
    assert result.exit_code == 0, result.output


# --- signals


def slow_run(start: Start) -> Program:
    """A run whose task says by a file that it has begun, and then takes its time."""
    file = graph(script("slow", "echo $$ > begun; sleep 100"), task("after", "noop", "slow"))
    program = start("run", file)
    wait_for_file(Path("begun"), program)
    return program


def test_ctrl_c_cancels_the_run_and_says_how_to_go_on(start: Start, call: Call) -> None:
    program = slow_run(start)
    program.signal(signal.SIGINT)
    assert program.wait() == 130
    assert "run 1 test: cancelled" in program.text
    assert "task-engine run --resume 1" in program.text
    shown = json.loads(call("runs", "show", "1", "--json").stdout)
    assert [item["state"] for item in shown["tasks"]] == ["cancelled", "cancelled"]
    wait_until_gone(int(Path("begun").read_text()))


def test_a_cancel_that_cannot_be_stored_is_said(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise StoreUnavailable("the disk is full")

    monkeypatch.setattr(runs, "cancel", fail)
    result = call("run", graph(script("slow", f"kill -INT {os.getpid()}; sleep 100")))
    assert result.exit_code == 3
    assert "error: the disk is full" in result.stderr


def test_a_second_ctrl_c_leaves_at_once_and_leaves_no_process(start: Start, call: Call) -> None:
    file = graph(script("stubborn", "trap '' TERM INT; echo $$ > begun; while :; do sleep 1; done"))
    program = start("run", file)
    wait_for_file(Path("begun"), program)
    program.signal(signal.SIGINT)
    program.line("Ctrl-C again leaves at once")
    program.signal(signal.SIGINT)
    assert program.wait() == 130
    wait_until_gone(int(Path("begun").read_text()))  # the guardian ends it


def test_a_killed_run_can_be_resumed(start: Start, call: Call) -> None:
    program = slow_run(start)
    program.signal(signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
    Path("begun").unlink()
    again = start("run", "--resume", "1")
    wait_for_file(Path("begun"), again)
    again.signal(signal.SIGINT)
    assert again.wait() == 130


def test_a_termination_leaves_the_run_unfinished(start: Start, call: Call) -> None:
    program = start(
        "run", graph(script("quick", "echo > begun; sleep 0.2"), script("next", "sleep 100", "quick"))
    )
    wait_for_file(Path("begun"), program)
    program.signal(signal.SIGTERM)
    assert program.wait() == 143
    assert json.loads(call("runs", "list", "--json").stdout)[0]["state"] == "running"


# --- output


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_output_that_nobody_reads_ends_quietly(flags: tuple[str, ...]) -> None:
    file = graph(task("a"))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "engine", "run", file, *flags], stdout=closed, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_sees_a_live_picture(empty_folder: Path) -> None:
    file = graph(task("a"), task("sleeper", "sleep", duration_ms=700))
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child is another program
        os.environ.update(TERM="xterm", COLUMNS="100")
        os.execv(sys.executable, [sys.executable, "-m", "engine", "run", file])
    seen = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        seen += chunk
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    text = seen.decode()
    assert "\x1b[" in text and "━" in text
    assert "sleeper" in text.partition("TASK")[0]  # while it ran
    assert "run 1 test: succeeded" in text
