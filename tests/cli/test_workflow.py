"""`task-engine workflow`: the same on a server and on a database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from engine.api.workflows.wire import RealtimeTaskOut, SubscriptionOut
from engine.cli.definitions import join
from engine.cli.workflow import show_realtime_tasks
from engine.client.rest import Client
from engine.errors import ServerUnavailable
from engine.model.realtime import Protocol, RealtimeMode, RealtimeType
from tests.cli.process import Program
from tests.cli.test_client import Serve, serve

__all__ = ["serve"]  # a fixture

Call = Callable[..., Result]
On = Callable[..., Any]
Start = Callable[..., Program]

ORDERS = """
workflows:
  definitions:
    - workflow_id: orders
      description: nightly order run
      params: {region: eu, day: {type: integer, default: 1}}
      tasks:
        - {task_id: load, kind: shell, params: {script: "echo ${region}"}, timeout: 45s}
        - {task_id: price, kind: noop, dependencies: [load], retry_count: 2, description: puts prices}
        - {task_id: book, kind: noop, dependencies: [load, price]}
"""
FAILING = ORDERS.replace("echo ${region}", "exit 3")
ID = r"wf-[a-z0-9]{12}"


def other(name: str, text: str = ORDERS) -> str:
    return text.replace("workflow_id: orders", f"workflow_id: {name}")


@pytest.fixture
def orders() -> str:
    """A file with a workflow."""
    Path("orders.yaml").write_text(ORDERS)
    return "orders.yaml"


def error_of(result: Result, code: int) -> str:
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    return result.stderr


# --- upload, validate, schema


def test_an_upload_is_told_with_a_tick_and_the_id(call: Call, target: list[str], orders: str) -> None:
    uploads = [call("workflow", "upload", orders, *target).stdout for _ in range(2)]
    told = [
        re.fullmatch(rf"✅ Workflow uploaded: ({ID}) \(orders, version (\d)\)\n", text) for text in uploads
    ]
    first, second = (found.groups() if found else () for found in told)
    assert first and second and (first[0], first[1], second[1]) == (second[0], "1", "2")


def test_several_files_are_merged_and_the_first_definition_of_an_id_wins(on: On) -> None:
    Path("a.yaml").write_text(ORDERS.rstrip())  # without a line feed at the end
    Path("b.yaml").write_text("# ours\n---\n" + other("more") + ORDERS.partition("definitions:")[2][1:])
    Path("c.yaml").write_text("%YAML 1.2\n---" + other("most"))
    Path("d.yaml").write_text("\ufeff" + other("last"))
    saved = on("workflow", "upload", "a.yaml", "b.yaml", "c.yaml", "d.yaml", "a.yaml")["workflows"]
    assert [item["name"] for item in saved] == ["orders", "more", "most", "last"]
    assert on("workflow", "list")["total"] == 4


def test_a_definition_may_come_from_standard_input(on: On) -> None:
    assert on("workflow", "upload", "-", text=ORDERS)["name"] == "orders"


def test_variables_are_those_of_the_command(
    call: Call, on: On, target: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGION", "us")
    monkeypatch.setenv("region", "never: it is a parameter")
    monkeypatch.delenv("DAY", raising=False)
    text = ORDERS.replace("echo ${region}", "echo ${region} ${REGION} ${REGION:eu} ${DAY:today} ${TODAY}")
    on("workflow", "upload", "-", text=text)
    saved = call("workflow", "show", "orders", "--yaml", *target).stdout
    assert "echo ${region} us us today ${TODAY}" in saved
    Path("wrong.yaml").write_text(ORDERS.replace("timeout: 45s", 'timeout: "${LIMIT:45s}"'))
    monkeypatch.setenv("LIMIT", "soon")
    assert "soon" in error_of(call("workflow", "validate", "wrong.yaml"), 2)


def test_every_mistake_is_told_with_file_line_and_column(call: Call, target: list[str]) -> None:
    Path("a.yaml").write_text(ORDERS.replace("dependencies: [load]", "dependencies: [lod]"))
    Path("b.yaml").write_text(other("more", ORDERS.replace("book, kind: noop", "book, kind: nop")))
    places = {
        "a.yaml:9:55": 'tasks[1].dependencies[0]: unknown task "lod"; did you mean "load"?',
        "b.yaml:10:33": 'tasks[2].kind: unknown kind "nop"; did you mean "noop"?',
    }
    expected = "".join(f"error: {place}: definitions[0].{what}\n" for place, what in places.items())
    assert error_of(call("workflow", "upload", "a.yaml", "b.yaml", *target), 2) == expected
    assert error_of(call("workflow", "validate", "a.yaml", "b.yaml"), 2) == expected
    assert json.loads(call("workflow", "list", "--json", *target).stdout)["total"] == 0


MISTAKES = {
    "workflows: [": "error: <stdin>:1:13: ",
    "- 1": "error: <stdin>:1:1: workflows: expected a mapping",
    "": "error: <stdin>: definitions: at least one is required\n",
    ORDERS.replace("retry_count", "retri_count"): 'unknown key; did you mean "retry_count"?',
    ORDERS.replace("timeout: 45s", "condition: 1 +"): "<stdin>:8:",
    ORDERS.replace("kind: noop, dependencies: [load],", "func_key: no, dependencies: [load],"): (
        'unknown function "no"'
    ),
}


def test_what_is_wrong_is_said_alike_on_both_ways(call: Call, target: list[str]) -> None:
    for text, error in MISTAKES.items():
        assert error in error_of(call("workflow", "upload", "-", *target, text=text), 2)


def test_mistakes_that_a_server_does_not_tell_in_full_are_told_from_here(
    call: Call, target: list[str]
) -> None:
    lines = "".join(
        f"        - {{task_id: t{n}, kind: noop, dependencies: [nobody{n}]}}\n" for n in range(40)
    )
    told = error_of(call("workflow", "upload", "-", *target, text=ORDERS + lines), 2).splitlines()
    assert [line.partition(": definitions")[0] for line in told] == [
        f"error: <stdin>:{11 + n}:{51 + len(str(n))}" for n in range(40)
    ]


def test_a_file_that_cannot_be_read_is_named(call: Call, target: list[str]) -> None:
    Path("latin.yaml").write_bytes(b"# \xe9\n")
    for name, reason in {
        "no.yaml": "no.yaml: No such file or directory",
        ".": ". is a directory; give a file, or `-` to read standard input",
        "latin.yaml": "latin.yaml:1: the document is not UTF-8 text",
    }.items():
        assert error_of(call("workflow", "upload", name, *target), 2) == f"error: {reason}\n"


def test_what_is_too_large_for_a_server_is_said(start: Start, call: Call) -> None:
    url = start("server", "start", "--port", "0").event("server.started")["url"]
    result = call("workflow", "upload", "-", "--server", url, text=ORDERS + "#" * 2_000_000)
    assert "larger than the limit of 1048576 bytes" in error_of(result, 2)


def test_a_validation_needs_no_database_and_makes_none(call: Call, orders: str) -> None:
    Path("jobs.yaml").write_text("workflows: {jobs: [{job_id: load-all, func_key: load_all}]}")
    Path("use.yaml").write_text(
        "workflows: {definitions: [{workflow_id: all, tasks: [{task_id: a, job_id: load-all}]}]}"
    )
    result = call("workflow", "validate", "jobs.yaml", "use.yaml", orders)
    assert (result.exit_code, result.stdout) == (0, "✅ all: 1 task\n✅ orders: 3 tasks\n")
    assert json.loads(call("workflow", "validate", orders, "--json").stdout) == [
        {"name": "orders", "task_count": 3}
    ]
    assert 'unknown job "load-all"' in error_of(call("workflow", "validate", "use.yaml"), 2)
    assert not Path("data").exists()


def test_the_schema_is_for_editors(call: Call) -> None:
    schema = json.loads(call("workflow", "schema").stdout)
    assert schema["$schema"].startswith("https://json-schema.org/") and "workflows" in schema["properties"]


def test_a_line_of_joined_files_is_found_again() -> None:
    texts = {"a": "x: 1\ny: 2", "b": "z: 3\nw: 4\n", "c": "# c\n---\nv: 5\n"}
    joined = join(texts)
    assert [line for line in joined.text.splitlines() if not line.strip("-.")] == ["---", "...", "---"]
    for source, text in texts.items():
        for number, line in enumerate(text.splitlines(), 1):
            at = joined.text.splitlines().index(line)
            assert line == "---" or joined.place(at + 1) == (source, number)


# --- list, show, versions, delete


def test_workflows_are_listed(call: Call, target: list[str], orders: str, on: On) -> None:
    empty = call("workflow", "list", *target)
    assert (empty.exit_code, empty.stdout) == (
        0,
        "no workflows; `task-engine workflow upload FILE` saves some\n",
    )
    saved = on("workflow", "upload", orders)
    made = datetime.fromisoformat(saved["created_at"]).astimezone()
    header, row = call("workflow", "list", *target).stdout.splitlines()
    assert header.split() == ["ID", "NAME", "TASKS", "CREATED"]
    assert row.split() == [saved["id"], "orders", "3", *made.strftime("%Y-%m-%d %H:%M:%S").split()]
    assert "\x1b" not in row
    Path("more.yaml").write_text(other("more"))
    on("workflow", "upload", "more.yaml")
    page = call("workflow", "list", "--limit", "1", *target)
    assert page.stdout.splitlines()[1].split()[1] == "more"
    assert page.stderr == "there are more: --offset 1 reads on, --limit N shows more\n"
    assert call("workflow", "list", "--offset", "1", *target).stdout.splitlines()[1].split()[1] == "orders"


def test_a_workflow_is_shown_by_id_or_name(call: Call, target: list[str], orders: str, on: On) -> None:
    saved = on("workflow", "upload", orders)
    by_id, by_name = (call("workflow", "show", key, *target).stdout for key in (saved["id"], "orders"))
    assert by_id == by_name
    lines = [line.split() for line in by_id.splitlines()]
    assert ["id", saved["id"]] in lines and ["status", "ENABLED"] in lines
    assert ["load", "45s"] in lines and ["price", "load", "2", "puts", "prices"] in lines
    assert ["book", "load,", "price"] in lines
    assert on("workflow", "show", "orders")["dependencies"] == {"price": ["load"], "book": ["load", "price"]}


def test_streaming_tasks_are_shown_beside_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    ticks = RealtimeTaskOut(
        id="ticks",
        name="ticks",
        description="",
        mode=RealtimeMode.CONTINUOUS,
        type=RealtimeType.DATA_COLLECTOR,
        function="on_tick",
        protocol=Protocol.WS,
        dependencies=["load"],
        subscriptions=[SubscriptionOut("tick", "on_tick", 0), SubscriptionOut("stop", "on_stop", 0)],
    )
    show_realtime_tasks([ticks])
    header, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert header == ["REALTIME_TASK", "DEPENDS_ON", "MODE", "SOURCE", "FUNCTION", "EVENTS"]
    assert row == ["ticks", "load", "continuous", "ws", "on_tick", "tick,", "stop"]


def test_versions_are_listed_newest_first(call: Call, target: list[str], on: On) -> None:
    for text in (ORDERS, ORDERS.replace("nightly", "daily"), ORDERS.replace("nightly", "hourly")):
        on("workflow", "upload", "-", text=text)
    listed = on("workflow", "versions", "orders")
    assert [item["version"] for item in listed["items"]] == [3, 2, 1]
    assert {"tasks", "dependencies"}.isdisjoint(listed["items"][0])
    page = call("workflow", "versions", "orders", "--limit", "1", "--offset", "1", *target)
    row = page.stdout.splitlines()[1].split()
    assert (row[:3], row[5:]) == (["2", "orders", "3"], ["daily", "order", "run"])
    assert "--offset 2 reads on" in page.stderr
    assert on("workflow", "show", "orders", "--version", "1")["description"] == "nightly order run"
    missing = call("workflow", "show", "orders", "--version", "4", *target)
    assert error_of(missing, 1) == "error: workflow not found: orders version 4\n"


def test_a_workflow_is_deleted(call: Call, target: list[str], orders: str, on: On) -> None:
    saved = on("workflow", "upload", orders)
    deleted = call("workflow", "delete", "orders", *target)
    assert (deleted.exit_code, deleted.stdout) == (0, f"✅ Workflow deleted: {saved['id']}\n")


def test_a_workflow_with_unfinished_instances_is_not_deleted(
    call: Call, database_url: str, orders: str
) -> None:
    flags = ("--db", database_url)
    call("workflow", "upload", orders, *flags)
    call("workflow", "execute", "orders", *flags)
    assert "has unfinished runs (" in error_of(call("workflow", "delete", "orders", *flags), 1)


def test_a_workflow_that_is_not_there_is_said_alike(call: Call, target: list[str]) -> None:
    for name in ("none", "..", "a/b", "%2F", "wf-x y", "ß"):
        expected = f"error: workflow not found: {name}\n"
        for command in ("show", "versions", "enable", "disable", "delete", "execute"):
            assert error_of(call("workflow", command, name, *target), 1) == expected
        assert error_of(call("instance", "history", name, *target), 1) == expected


# --- execute


def params_of(on: On, *arguments: str) -> Any:
    started = on("workflow", "execute", "any", *arguments)
    assert started["message"] == "instance started"
    return on("instance", "status", started["instance_id"]).get("params")


def test_parameters_are_json_where_they_can_be_read_as_json(on: On) -> None:
    on(
        "workflow",
        "upload",
        "-",
        text=other(
            "any", ORDERS.replace("params: {region: eu, day: {type: integer, default: 1}}", "")
        ).replace("${region}", ""),
    )
    values = {
        "n": "3",
        "t": "true",
        "s": "eu",
        "q": '"3"',
        "o": '{"a": [1]}',
        "e": "",
        "x": "a=b",
        "f": "NaN",
    }
    given = [word for name, text in values.items() for word in ("--params", f"{name}={text}")]
    assert params_of(on, *given) == {
        **{"n": 3, "t": True, "s": "eu", "q": "3", "o": {"a": [1]}, "e": "", "x": "a=b", "f": "NaN"}
    }
    Path("day.yaml").write_text("day: 5\nwho: me\n")
    assert params_of(on, "--params-file", "day.yaml", "-p", "who=you") == {"day": 5, "who": "you"}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("-p", "day"), "'day' is not NAME=VALUE"),
        (("-p", "=3"), "'=3' is not NAME=VALUE"),
        (("-p", "day=\udcff"), "is not UTF-8"),
        (("-p", "day=1", "-p", "day=2"), "parameter 'day' is given twice"),
        (("--params-file", "list.json"), "list.json:1:1: parameters are an object"),
        (("--params-file", "no.json"), "no.json: No such file"),
        (("--timeout", "1s"), "--timeout needs --wait"),
        (("--wait", "--watch"), "give --wait or --watch, not both"),
        (("--idempotency-key", ""), "is not 1 to 200 printable ASCII characters"),
        (("-p", "day=monday"), "expected integer, got"),
    ],
)
def test_an_execution_that_cannot_be_is_refused(
    call: Call, database_url: str, orders: str, arguments: tuple[str, ...], error: str
) -> None:
    Path("list.json").write_text("[]")
    call("workflow", "upload", orders, "--db", database_url)
    assert error in error_of(call("workflow", "execute", "orders", *arguments, "--db", database_url), 2)
    listed = call("instance", "list", "--json", "--db", database_url)
    assert json.loads(listed.stdout)["total"] == 0


def test_parameters_that_do_not_fit_are_refused_alike(call: Call, target: list[str], orders: str) -> None:
    call("workflow", "upload", orders, *target)
    refused = error_of(call("workflow", "execute", "orders", "-p", "day=monday", *target), 2)
    assert refused.startswith("error: ") and "day" in refused and "expected integer, got" in refused


def test_an_execution_with_a_key_is_one_instance_whichever_way_it_takes(
    start: Start, call: Call, orders: str
) -> None:
    url = start("server", "start", "--port", "0", "--shared").event("server.started")["url"]
    ways = (("--server", url), ("--data-dir", "data"))
    name = "a/b%"
    call("workflow", "upload", "-", *ways[0], text=other(name))
    for _ in range(2):
        for way in ways:
            repeat = call("workflow", "execute", name, "-p", "day=2", "--idempotency-key", "k1", *way)
            assert (repeat.exit_code, repeat.stdout) == (0, "✅ Instance ID: 1\n"), repeat.output
            changed = call("workflow", "execute", name, "--idempotency-key", "k1", *way)
            assert "different request" in error_of(changed, 1)


def test_the_exit_code_of_a_wait_says_how_it_ended(call: Call, target: list[str], orders: str) -> None:
    call("workflow", "upload", orders, *target)
    done = call("workflow", "execute", "orders", "--wait", *target)
    assert (done.exit_code, done.stderr) == (0, "")
    head = ["✅ Instance ID: 1", "Instance: 1", "Status:   Success", "Progress: 3/3 (100%)", "Tasks:"]
    assert done.stdout.splitlines()[:5] == head
    call("workflow", "upload", "-", *target, text=FAILING)
    failed = call("workflow", "execute", "orders", "--wait", "--json", *target)
    assert failed.exit_code == 1
    shown = json.loads(failed.stdout)
    assert (shown["status"], shown["version"]) == ("Failed", 2)


def test_a_wait_ends_at_its_time_limit_and_idleness_is_mentioned(
    call: Call, database_url: str, orders: str
) -> None:
    call("workflow", "upload", orders, "--db", database_url)
    late = call("workflow", "execute", "orders", "--wait", "--timeout", "1ms", "--db", database_url)
    number = late.stdout.splitlines()[0].rpartition(" ")[2]
    assert late.exit_code == 124
    assert "no worker is alive" in late.stderr
    assert late.stderr.endswith(f"error: timed out after 1ms, not ended: instance {number}\n")


def test_an_execution_may_be_watched(call: Call, target: list[str], orders: str) -> None:
    call("workflow", "upload", orders, *target)
    watched = call("workflow", "execute", "orders", "--watch", *target)
    lines = watched.stdout.splitlines()
    assert watched.exit_code == 0
    assert [line.split()[1:4] for line in lines[1:4]] == [
        ["✅", name, "Success"] for name in ("load", "price", "book")
    ]
    assert lines[4:] == ["Instance: 1", "Status:   Success", "Progress: 3/3 (100%)"]


def test_an_answer_that_is_lost_leaves_the_key_to_repeat_with(serve: Serve, call: Call) -> None:
    stub = serve((200, {}, b'{"status": "ok", "version": "1", "uptime": 1}'), None)
    stub.answers = [None]
    lost = call("workflow", "execute", "orders", "--idempotency-key", "k1", "--server", stub.url)
    assert "whether the instance was started is not known: repeat with --idempotency-key k1" in error_of(
        lost, 4
    )


# --- targets


def test_both_ways_print_the_same_json(database_url: str, start: Start, call: Call, orders: str) -> None:
    flags = ("--shared",) if database_url.startswith("sqlite") else ()
    url = start("server", "start", "--port", "0", "--db", database_url, *flags).event("server.started")["url"]
    ways = (("--server", url), ("--db", database_url))

    def same(*arguments: str) -> Any:
        first, second = (call(*arguments, "--json", *way) for way in ways)
        assert (first.exit_code, first.stdout) == (second.exit_code, second.stdout), first.output
        return json.loads(first.stdout)

    Path("more.yaml").write_text(
        other("more").replace("params: {region: eu", 'cron: "0 30 1 * * *"\n      params: {region: eu')
    )
    call("workflow", "upload", "more.yaml", *ways[0])
    saved = call("workflow", "upload", orders, "--json", *ways[1])
    workflow_id = json.loads(saved.stdout)["id"]
    call("workflow", "upload", "-", *ways[0], text=FAILING)
    ended = call("workflow", "execute", "orders", "--wait", "--json", *ways[0])
    number = json.loads(ended.stdout)["id"]
    assert call("workflow", "execute", "more", "--wait", *ways[1]).exit_code == 0
    assert same("workflow", "list")["total"] == 2
    assert same("workflow", "list", "--limit", "1", "--offset", "1")["has_more"] is False
    assert same("workflow", "show", workflow_id)["version"] == 2
    same("workflow", "show", "more")
    same("workflow", "versions", "orders")
    assert same("workflow", "versions", "orders", "--limit", "1")["has_more"]
    assert same("instance", "list")["total"] == 2
    assert same("instance", "list", "--status", "Failed", "--limit", "1")["items"][0]["id"] == number
    same("instance", "history", "orders", "--order", "asc")
    assert same("instance", "status", number)["progress"]["failed"] == 3
    assert len(same("instance", "tasks", number)) == 3
    for verb in ("pause", "resume", "cancel"):
        refusals = [call("instance", verb, number, *way) for way in ways]
        assert error_of(refusals[0], 1) == error_of(refusals[1], 1)


def test_answers_to_changes_are_the_same_on_both_ways(database_url: str, start: Start, call: Call) -> None:
    server = ["server", "start", "--port", "0", "--workers", "0", "--db", database_url, "--shared"]
    url = start(*server).event("server.started")["url"]
    shown: list[list[str]] = []
    for number, way in enumerate((("--server", url), ("--db", database_url))):
        told = []
        call("workflow", "upload", "-", *way, text=other(f"w{number}"))
        saved = json.loads(call("workflow", "show", f"w{number}", "--json", *way).stdout)["id"]
        started = call("workflow", "execute", f"w{number}", "--json", *way)
        instance = json.loads(started.stdout)["instance_id"]
        told.append(started.stdout)
        for verb in ("pause", "resume", "cancel", "retry"):
            told.append(call("instance", verb, instance, "--json", *way).stdout)
        again = call("instance", "rerun", instance, "--json", *way).stdout
        told.append(again)
        for each in (instance, json.loads(again)["instance_id"]):
            call("instance", "cancel", each, *way)
            told = [text.replace(f'"{each}"', "ID") for text in told]
        told.append(call("workflow", "delete", saved, "--json", *way).stdout.replace(saved, "ID"))
        shown.append(told)
    assert shown[0] == shown[1]


def test_a_target_that_is_not_there_has_its_exit_code(call: Call) -> None:
    commands = (("workflow", "list"), ("instance", "list"))
    for command in commands:
        assert "no server answers" in error_of(call(*command, "--server", "http://127.0.0.1:1"), 4)
        assert "there is no database file" in error_of(call(*command, "--data-dir", "none"), 3)


def test_an_answer_without_the_envelope_is_not_ours(serve: Serve) -> None:
    stub = serve((200, {}, b"[1]"), (200, {}, b'{"code": 0, "message": "success"}'))
    with Client(stub.url) as client:
        with pytest.raises(ServerUnavailable, match="not as expected"):
            client.workflows()
        with pytest.raises(ServerUnavailable, match="not as expected"):
            client.instance("1")
        assert client.instance_tasks("1") == []  # what is empty may be left out
