"""The commands that look and control: the same on a server and on a database."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from engine.cli.output import between
from engine.cli.target import patiently
from engine.errors import ServerUnavailable
from tests.cli.process import Program, wait_for_file, without_times

Call = Callable[..., Result]
Start = Callable[..., Program]

GRAPH = """
name: report
labels: {team: data}
tasks:
  - {name: first, kind: shell, params: {script: "echo one; echo two >&2"}}
  - {name: second, kind: shell, params: {script: "echo three; echo oops >&2; exit 4"}, depends_on: [first]}
  - {name: third, kind: noop, depends_on: [second]}
"""
EXECGO = '{"tasks": [{"id": "a/b", "type": "shell", "params": {"command": "echo", "args": ["hi"]}}]}'


@pytest.fixture
def finished(on: Callable[..., Any]) -> int:
    """A run that has failed."""
    Path("graph.yaml").write_text(GRAPH)
    return int(on("task", "submit", "graph.yaml", "--wait", code=1)["id"])


def test_a_submit_says_which_run_it_became(on: Callable[..., Any]) -> None:
    Path("graph.yaml").write_text(GRAPH)
    accepted = on("task", "submit", "graph.yaml")
    assert accepted["task_ids"] == ["first", "second", "third"]
    assert on("runs", "show", str(accepted["run_id"]))["run"]["labels"] == {"team": "data"}


def test_a_repeated_submit_with_the_same_key_is_one_run(
    on: Callable[..., Any], call: Call, target: list[str]
) -> None:
    Path("graph.yaml").write_text(GRAPH)
    first = on("task", "submit", "graph.yaml", "--idempotency-key", "k1")
    assert on("task", "submit", "graph.yaml", "--idempotency-key", "k1")["run_id"] == first["run_id"]
    Path("graph.yaml").write_text(GRAPH.replace("three", "four"))
    other = call("task", "submit", "graph.yaml", "--idempotency-key", "k1", *target)
    assert other.exit_code in (1, 2)
    assert "different request" in other.stderr


@pytest.mark.parametrize("graph", [GRAPH, EXECGO])
def test_a_repeat_is_recognised_whichever_way_it_takes(start: Start, call: Call, graph: str) -> None:
    url = start("server", "start", "--port", "0", "--shared").event("server.started")["url"]
    repeat = ("task", "submit", "-", "--idempotency-key", "k1")
    for way in (("--server", url), ("--data-dir", "data")):
        assert call(*repeat, *way, text=graph).exit_code == 0
    [run] = json.loads(call("runs", "list", "--json", "--data-dir", "data").stdout)
    assert run["id"] == 1


@pytest.mark.parametrize(
    ("graph", "error"),
    [
        ("tasks:\n  - {name: a, kind: nop}\n", "<stdin>:2:21: task 'a': unknown kind \"nop\""),
        (
            "tasks:\n  - {name: a, kind: noop, depend_on: [b]}\n",
            "<stdin>:2:38: task 'a': unknown field 'depend_on'; did you mean 'depends_on'?",
        ),
        ('tasks:\n  - {name: "", kind: noop}\n  - {name: b, kind: 5}\n', "\nerror: <stdin>:3:21: "),
        (
            "tasks:\n  - {name: a, kind: noop, depends_on: [b]}\n",
            '<stdin>:2:5: task "a" depends on unknown task "b"',
        ),
        (
            "tasks:\n  - {id: a, type: noop, depends_on: [b]}\n  - {id: b, type: noop, depends_on: [a]}\n",
            ":5: cycle detected in task graph: ",
        ),
        (
            "tasks:\n  - {name: a, kind: noop, retry: {max_attempts: x}}\n",
            "<stdin>:2:49: task 'a': retry.max_attempts: input should be a valid integer",
        ),
        (
            "tasks:\n  - {id: a, type: noop}\n  - {id: b, type: noop, depends_on: a}\n",
            "<stdin>:3:37: depends_on: expected `array | null`, got `str`",
        ),
        ('{"tasks": [{"id": "a", "type": "nop"}]}', "<stdin>:1:12: unknown task type: nop (available: "),
        (
            '{"tasks": [\n {"name": "a", "kind": "noop", "retry": {"max_attempts": "x"}}]}',
            "<stdin>:2:58: task 'a': retry.max_attempts: input should be a valid integer",
        ),
    ],
)
def test_a_mistake_in_a_graph_is_told_with_its_place(
    call: Call, target: list[str], graph: str, error: str
) -> None:
    result = call("task", "submit", "-", *target, text=graph)
    assert result.exit_code == 2
    assert error in result.stderr
    assert call("runs", "list", "--json", *target).stdout == "[]\n"


def test_runs_are_listed_and_filtered(on: Callable[..., Any], finished: int) -> None:
    [run] = on("runs", "list")
    assert (run["id"], run["name"], run["state"], run["total"]) == (finished, "report", "failed", 3)
    assert run["duration_ms"] >= 0
    assert on("runs", "list", "--state", "succeeded") == []
    assert len(on("runs", "list", "--name", "report", "--limit", "1")) == 1
    assert on("runs", "list", "--before", str(finished)) == []


def test_a_run_is_shown_with_its_tasks(on: Callable[..., Any], finished: int) -> None:
    shown = on("runs", "show", str(finished))
    assert [(t["name"], t["state"], t["attempt"]) for t in shown["tasks"]] == [
        ("first", "succeeded", 1),
        ("second", "failed", 1),
        ("third", "skipped", 0),
    ]
    assert shown["tasks"][0]["last"]["result"]["stdout"] == "one\n"
    [failed] = on("runs", "show", str(finished), "--state", "failed")["tasks"]
    assert failed["depends_on"] == ["first"]


def test_a_run_is_shown_to_people(call: Call, target: list[str], finished: int) -> None:
    result = call("runs", "show", str(finished), *target)
    assert "command failed: exit status 4: oops" in result.stdout
    assert "(3 tasks: 1 succeeded, 1 failed, 1 skipped)" in result.stdout
    listed = call("runs", "list", *target).stdout
    assert listed.splitlines()[0].split()[:3] == ["RUN", "NAME", "STATE"]


def test_a_submit_that_waits_says_why_its_run_failed(call: Call, target: list[str]) -> None:
    result = call("task", "submit", "-", "--wait", *target, text=GRAPH)
    assert result.exit_code == 1
    assert "command failed: exit status 4: oops\n" in result.stdout


def test_a_way_out_that_an_error_names_is_shown(call: Call, target: list[str]) -> None:
    native, execgo = (
        json.dumps({"tasks": [{name: letter, kind: "shell", "params": {"command": "rm"}} for letter in "ab"]})
        for name, kind in (("name", "kind"), ("id", "type"))
    )
    waited = [call("task", "submit", "-", "--wait", *target, text=text) for text in (native, execgo)]
    shown = [call(*command, *target) for command in (("runs", "show", "1"), ("task", "get", "a"))]
    for result in (*waited, *shown):
        hints = [line for line in result.stdout.splitlines() if line.startswith("hint: ")]
        assert len(hints) == 1 and "shell_policy=open" in hints[0], result.output


def test_a_watched_run_tells_all_its_events_and_how_it_ended(
    call: Call, target: list[str], finished: int
) -> None:
    result = call("runs", "watch", str(finished), "--json", *target)
    assert result.exit_code == 1
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["number"] for event in events] == list(range(1, len(events) + 1))
    assert events[-1]["kind"] == "run.failed"
    lines = call("runs", "watch", str(finished), *target)
    assert "run.failed" not in lines.stdout and "failed     second" in lines.stdout
    assert "[2/3]  command failed: exit status 4\n" in lines.stdout  # at once
    assert "command failed: exit status 4: oops\n" in lines.stdout  # with all that is known at the end


def test_logs_are_of_all_tasks_or_of_one(call: Call, target: list[str], finished: int) -> None:
    everything = call("runs", "logs", str(finished), *target).stdout
    assert sorted(without_times(everything)) == [
        *["first#1 | one", "first#1 | two", "second#1 | oops", "second#1 | three"]
    ]
    one = call("runs", "logs", str(finished), "--task", "first", *target)
    assert (without_times(one.stdout), without_times(one.stderr)) == (["#1 | one"], ["#1 | two"])
    silent = call("runs", "logs", str(finished), "--task", "third", *target)
    assert (silent.exit_code, silent.stderr) == (0, "nothing was written\n")
    for following in ((), ("--follow",)):
        nobody = call("runs", "logs", str(finished), "--task", "nope", *following, *target)
        assert (nobody.exit_code, nobody.stderr) == (1, f"error: run {finished} has no task 'nope'\n")
    lines = call("runs", "logs", str(finished), "--task", "second", "--json", *target).stdout.splitlines()
    [line] = [line for line in map(json.loads, lines) if line["stream"] == "stdout"]
    assert (line["task_name"], line["attempt"], line["text"].strip()) == ("second", 1, "three")


def test_a_run_is_paused_resumed_cancelled_and_retried(
    on: Callable[..., Any], call: Call, target: list[str]
) -> None:
    line = '  - {{name: t{}, kind: shell, params: {{script: "test -e go || sleep 100"}}}}'
    tasks = "\n".join(map(line.format, range(20)))
    Path("graph.yaml").write_text(f"tasks:\n{tasks}\n")
    run = str(on("task", "submit", "graph.yaml")["run_id"])
    assert on("runs", "pause", run)[0]["state"] == "paused"
    assert on("runs", "resume", run)[0]["state"] in ("pending", "running")
    assert on("runs", "cancel", run, "--reason", "wrong day")[0]["is_cancelling"]
    assert call("runs", "watch", run, *target).exit_code == 1
    shown = on("runs", "show", run)
    assert shown["run"]["state"] == "cancelled"
    assert {task["reason"] for task in shown["tasks"]} == {"wrong day"}
    Path("go").touch()
    assert on("runs", "retry", run)[0]["id"] == int(run)
    assert call("runs", "watch", run, *target).exit_code == 0
    again = call("runs", "cancel", run, *target)
    assert (again.exit_code, again.stderr[:30]) == (1, f"error: run {run} is succeeded; only an"[:30])
    assert on("runs", "delete", run) == {"deleted": [int(run)]}
    assert call("runs", "show", run, *target).stderr == f"error: run not found: {run}\n"


def test_both_ways_show_the_same_durations(start: Start, call: Call) -> None:
    url = start("server", "start", "--port", "0", "--shared").event("server.started")["url"]
    assert call("task", "submit", "-", "--wait", "--server", url, text=EXECGO).exit_code == 0
    [task] = json.loads(call("runs", "show", "1", "--json", "--server", url).stdout)["tasks"]
    contract = json.loads(call("task", "get", "a/b", "--json", "--server", url).stdout)
    assert contract["runtime"].get("duration_ms", 0) == task["duration_ms"]


@pytest.mark.parametrize(("microseconds", "milliseconds"), [(0, 0), (1_999, 1), (1_001_000, 1_001)])
def test_a_duration_is_cut_off_to_whole_milliseconds(microseconds: int, milliseconds: int) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert between(start, start + timedelta(microseconds=microseconds)) == milliseconds
    assert between(start + timedelta(seconds=1), start) == 0  # clocks may be set back


def test_a_control_says_the_state_that_a_run_has_now(call: Call, database_url: str) -> None:
    submitted = call("task", "submit", "-", "--json", "--db", database_url, text=EXECGO)
    run = str(json.loads(submitted.stdout)["run_id"])
    for verb, state in (("pause", "paused"), ("resume", "pending"), ("cancel", "cancelled")):
        assert call("runs", verb, run, "--db", database_url).stdout == f"run {run}: {state}\n"


def test_a_repeat_is_told_from_a_first_submit(call: Call, database_url: str) -> None:
    submit = ("task", "submit", "-", "--idempotency-key", "k1", "--db", database_url)
    first, repeat = (call(*submit, text=EXECGO).stdout for _ in range(2))
    assert repeat == first.replace("\n", " (repeat)\n")
    assert json.loads(call(*submit, "--json", text=EXECGO).stdout)["is_repeat"]
    other = call("task", "submit", "-", "--json", "--db", database_url, text=EXECGO)
    assert json.loads(other.stdout)["is_repeat"] is False


def test_a_watch_and_followed_logs_outlive_a_restart_of_their_server(start: Start, call: Call) -> None:
    def server(port: int) -> tuple[Program, str]:
        program = start("server", "start", "--port", str(port), "--shutdown-timeout", "10ms")
        return program, str(program.event("server.started")["url"])

    Path("graph.yaml").write_text(
        "tasks:\n  - {name: a, kind: shell, params: {script: 'echo one'}}\n"
        "  - {name: b, kind: shell, params: {script: 'test -e go || sleep 100; echo two'}, depends_on: [a]}\n"
    )
    before, url = server(0)
    run = str(json.loads(call("task", "submit", "graph.yaml", "--json", "--server", url).stdout)["run_id"])
    plain = start("runs", "watch", run, "--server", url)
    events = start("runs", "watch", run, "--json", "--server", url)
    assert plain.line("run 1").startswith("run 1: ")  # the state comes first
    plain.line("succeeded  a")
    events.line('"started"')
    logs = start("runs", "logs", run, "--follow", "--server", url)
    logs.line("a#1 | one")
    before.signal(signal.SIGKILL)
    before.wait()
    for program in (plain, events, logs):
        program.line("trying again for 36 s")
    Path("go").touch()
    server(int(url.rpartition(":")[2]))
    assert plain.wait() == events.wait() == logs.wait() == 0
    assert "interrupted (worker " in plain.text
    assert without_times(logs.text) == ["a#1 | one", "b#2 | two"]
    numbers = [json.loads(line)["number"] for line in events.output]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_watch_gives_up_on_what_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)

    def ask() -> None:
        raise ServerUnavailable("nobody")

    with pytest.raises(ServerUnavailable):
        patiently(ask)
    assert sum(pauses) >= 30
    assert pauses == sorted(pauses)


def test_one_refusal_does_not_keep_the_others_from_being_done(
    on: Callable[..., Any], call: Call, target: list[str]
) -> None:
    graph = '{"tasks": [{"name": "a", "kind": "noop"}]}'
    runs = [str(on("task", "submit", "-", "--wait", text=graph)["id"]) for _ in range(2)]
    result = call("runs", "delete", runs[0], "999", runs[1], *target)
    assert (result.exit_code, result.stderr) == (1, "error: run not found: 999\n")
    assert result.stdout == f"deleted {runs[0]}, {runs[1]}\n"
    result = call("task", "delete", "nobody", "nothing", "--json", *target)
    assert json.loads(result.stdout) == {"deleted": []}
    assert (result.exit_code, result.stderr) == (
        1,
        "error: task not found: nobody; task not found: nothing\n",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        *[("runs", "show", "0"), ("runs", "show", "9" * 30), ("runs", "list", "--before", "9" * 30)],
        *[("task", "list", "--offset", "9" * 30), ("task", "get", ""), ("task", "get", "\udcff")],
        *[("token", "create", "--scope", "read", "--name", name) for name in ("", " ", "x" * 201)],
    ],
)
def test_numbers_and_names_that_cannot_be_are_wrong_usage(call: Call, arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: Invalid value for ")


def test_following_logs_ends_with_the_run(call: Call, target: list[str]) -> None:
    Path("graph.yaml").write_text(
        "tasks:\n  - {name: a, kind: shell, params: {script: 'echo one'}}\n"
        "  - {name: b, kind: shell, params: {script: 'sleep 0.3; echo two'}, depends_on: [a]}\n"
    )
    run = call("task", "submit", "graph.yaml", "--json", *target)
    result = call("runs", "logs", str(json.loads(run.stdout)["run_id"]), "--follow", *target)
    assert without_times(result.stdout) == ["a#1 | one", "b#1 | two"]


def test_tasks_of_the_execgo_contract(on: Callable[..., Any], call: Call, target: list[str]) -> None:
    assert on("task", "submit", "-", text=EXECGO)["task_ids"] == ["a/b"]
    assert on("task", "wait", "a/b")[0]["status"] == "success"
    shown = on("task", "get", "a/b")
    assert (shown["type"], shown["tool_name"], shown["result"]["stdout"]) == ("os", "shell", "hi\n")
    assert [item["id"] for item in on("task", "list", "--status", "success", "--type", "os")] == ["a/b"]
    assert on("task", "list", "--status", "failed") == []
    assert "hi" in call("task", "get", "a/b", *target).stdout
    assert call("task", "list", *target).stdout.splitlines()[1].split()[:3] == ["a/b", "shell", "success"]
    assert on("task", "delete", "a/b") == {"deleted": ["a/b"]}
    missing = call("task", "get", "a/b", *target)
    assert (missing.exit_code, missing.stderr) == (1, "error: task not found: a/b\n")


def test_a_wait_ends_at_its_time_limit(call: Call, target: list[str]) -> None:
    slow = '{"tasks": [{"id": "slow", "type": "sleep", "params": {"duration_ms": 60000}}]}'
    assert call("task", "submit", "-", *target, text=slow).exit_code == 0
    result = call("task", "wait", "slow", "--timeout", "200ms", *target)
    assert (result.exit_code, result.stderr) == (124, "error: timed out after 200ms, not ended: slow\n")


def test_the_wait_of_a_submit_ends_at_its_time_limit(call: Call, target: list[str]) -> None:
    graph = '{"tasks": [{"name": "slow", "kind": "sleep", "params": {"duration_ms": 60000}}]}'
    result = call("task", "submit", "-", "--wait", "--timeout", "200ms", *target, text=graph)
    assert (result.exit_code, result.stderr) == (124, "error: timed out after 200ms, not ended: run 1\n")


def test_a_time_limit_without_a_wait_is_wrong_usage(call: Call, database_url: str) -> None:
    result = call("task", "submit", "-", "--timeout", "1s", "--db", database_url, text=EXECGO)
    assert result.exit_code == 2
    assert call("runs", "list", "--json", "--db", database_url).stdout == "[]\n"
    assert "--timeout needs --wait" in result.stderr


def test_a_list_that_stops_at_its_limit_says_how_to_read_on(call: Call, database_url: str) -> None:
    def listed(*arguments: str) -> tuple[int, str]:
        result = call(*arguments, "--db", database_url)
        return len(result.stdout.splitlines()) - 1, result.stderr

    for name in "abc":
        graph = json.dumps({"tasks": [{"id": name, "type": "noop"}]})
        assert call("task", "submit", "-", "--db", database_url, text=graph).exit_code == 0
    found = json.loads(call("runs", "list", "--json", "--db", database_url).stdout)
    rows, hint = listed("runs", "list", "--limit", "2")
    assert rows == 2 and f"--before {found[1]['id']} " in hint
    assert listed("runs", "list", "--limit", "3") == (3, "")
    rows, hint = listed("task", "list", "--limit", "1", "--offset", "1")
    assert rows == 1 and "--offset 2 " in hint
    assert listed("task", "list", "--limit", "1", "--offset", "2") == (1, "")
    for command in ("runs", "task"):
        result = call(command, "list", "--limit", "2", "--json", "--db", database_url)
        assert (len(json.loads(result.stdout)), result.stderr) == (2, "")


def test_the_longest_list_is_within_what_a_server_gives(call: Call, target: list[str]) -> None:
    assert call("task", "list", "--limit", "9999", *target).exit_code == 0


def test_tokens_are_made_listed_and_revoked(on: Callable[..., Any], call: Call, target: list[str]) -> None:
    made = on("token", "create", "--name", "ci", "--scope", "submit", "--scope", "read", "--expires", "90d")
    assert made["token"].startswith(f"te_{made['id']}_")
    [listed] = on("token", "list")
    assert (listed["name"], listed["scopes"], listed["revoked_at"]) == ("ci", ["read", "submit"], None)
    assert made["token"] not in json.dumps(listed)
    assert "valid" in call("token", "list", *target).stdout
    assert on("token", "revoke", made["id"]) == {"revoked": [made["id"]]}
    assert "revoked" in call("token", "list", *target).stdout
    assert call("token", "revoke", made["id"], *target).exit_code == 1


def test_limits_are_set_listed_and_lifted(on: Callable[..., Any], call: Call, target: list[str]) -> None:
    assert "no limits" in call("limit", "list", *target).output
    assert on("limit", "set", "a/b", "2") == {"key": "a/b", "at_most": 2, "running": 0}
    assert "at most 5 tasks submitted from now on" in call("limit", "set", "*", "5", *target).output
    assert [each["key"] for each in on("limit", "list")] == ["*", "a/b"]
    assert on("limit", "lift", "a/b") == {"lifted": "a/b"}
    assert "any" in call("limit", "list", *target).stdout
    unknown = call("limit", "lift", "none", *target)
    assert (unknown.exit_code, "limit not found: none" in unknown.stderr) == (1, True)
    assert call("limit", "set", "a/b", "0", *target).exit_code == 2


def test_waiting_where_nobody_works_is_mentioned(call: Call, database_url: str) -> None:
    Path("graph.yaml").write_text(GRAPH)
    for wait in ((), ("--wait", "--timeout", "1ms")):
        submitted = call("task", "submit", "graph.yaml", *wait, "--json", "--db", database_url)
        assert "no worker is alive" in submitted.stderr
        assert json.loads(submitted.stdout)


def test_where_somebody_works_nothing_is_mentioned(call: Call, target: list[str]) -> None:
    assert call("task", "submit", "-", "--wait", *target, text=EXECGO).stderr == ""


def test_single_tasks_can_be_cancelled_on_a_database(start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0", "--shared")
    server.event("server.started")
    slow = '{"tasks": [{"id": "slow", "type": "shell", "params": {"script": "echo > begun; sleep 60"}}]}'
    call("task", "submit", "-", "--data-dir", "data", text=slow)
    wait_for_file(Path("begun"), server)
    result = call("task", "cancel", "slow", "--data-dir", "data")
    assert (result.exit_code, result.stdout) == (0, "task slow: stopping\n")
    assert call("task", "wait", "slow", "--data-dir", "data").exit_code == 1
    shown = json.loads(call("task", "get", "slow", "--json", "--data-dir", "data").stdout)
    assert shown["error"] == "context canceled"
