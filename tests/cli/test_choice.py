"""Which engine a command turns to: a server, a database, or neither; and what it says when it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from engine.sdk import configured
from engine.sdk.opening import shown
from engine.settings import load
from engine.store.dialects import parse_url
from tests.cli.process import Program

Call = Callable[..., Result]
Start = Callable[..., Program]

GRAPH = "name: report\ntasks:\n  - {name: first, kind: noop}\n"
EXECGO = '{"tasks": [{"id": "a/b", "type": "noop", "params": {}}]}'


def test_server_and_database_together_are_refused(call: Call) -> None:
    for command in (("runs", "list"), ("doctor",)):
        result = call(*command, "--server", "http://127.0.0.1:1", "--db", "sqlite:///x.db")
        assert result.exit_code == 2
        assert "not both" in result.stderr


def test_options_of_the_program_hold_for_every_command(start: Start, call: Call) -> None:
    url = start("server", "start", "--port", "0").event("server.started")["url"]
    first = call("-s", url, "--json", "workflow", "list")
    assert (first.exit_code, json.loads(first.stdout)["items"]) == (0, [])
    for given in (("--server", url, "-j"), ("-s", url, "--json")):
        assert call(*given, "workflow", "list").stdout == call("workflow", "list", *given).stdout
    assert json.loads(call("-j", "doctor", "-s", url).stdout)["findings"][1]["check"] == "server"
    assert json.loads(call("--json", "version").stdout)["version"]


def test_an_option_of_the_command_goes_over_that_of_the_program(call: Call) -> None:
    away, elsewhere = "http://127.0.0.1:1", "http://127.0.0.1:2"
    result = call("-s", away, "workflow", "list", "-s", elsewhere)
    assert (result.exit_code, elsewhere in result.stderr) == (4, True)
    assert "not both" in call("-s", away, "workflow", "list", "--db", "sqlite:///x.db").stderr


@pytest.mark.parametrize("command", ["run", "server", "worker", "db"])
def test_commands_that_talk_to_no_server_refuse_one(call: Call, command: str) -> None:
    result = call("--server", "http://127.0.0.1:1", command, "--help")
    assert (result.exit_code, f"`task-engine {command}` talks to no server" in result.stderr) == (2, True)


def test_a_server_that_answers_at_the_configured_address_is_used(
    start: Start, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start("server", "start", "--port", "0")
    started = server.event("server.started")
    url = started["url"]
    monkeypatch.setenv("ENGINE_ADDR", started["addr"])
    result = call("task", "submit", "-", text=EXECGO)  # the file itself is the server's alone
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    monkeypatch.setenv("ENGINE_DATABASE_URL", "sqlite:///other.db")
    result = call("runs", "list", "--json")
    assert len(json.loads(result.stdout)) == 1
    [note] = result.stderr.splitlines()
    assert note.startswith(f"note: {url} answers and is used, not the configured database")
    assert call("runs", "list", "--server", url).stderr == ""
    assert "no database file other.db" in call("runs", "list", "--db", "sqlite:///other.db").stderr


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("sqlite:///data/x.db", "sqlite:///data/x.db"),
        ("postgres://me:hunter2@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("postgresql://db/x?user=me&password=hunter2", "postgresql://db/x?user=me"),
        ("postgresql+psycopg://db/x?sslpassword=hunter2", "postgresql://db/x"),
    ],
)
def test_database_urls_are_shown_as_people_write_them_without_passwords(url: str, text: str) -> None:
    assert shown(parse_url(url)) == text


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql://u:sec@retpw@127.0.0.1:1/x",
            "has an @ besides that before the host; write @, / and ? of a user or password as",
        ),
        ("postgresql://u:sec@retpw/x@127.0.0.1:1/x", "has an @ besides"),
        ("postgresql://u:sec@ret?pw=x@127.0.0.1:1/x", "has an @ besides"),
        ("postgresql://us/er:secretpw@127.0.0.1:1/x", "has an @ besides"),
        ("postgresql://u@127.0.0.1:1/x?foo=sec", "has an unknown option 'foo'"),
        ("postgresql://u:sec@127.0.0.1:retpw/x", "cannot be read"),
    ],
)
def test_a_url_that_is_misread_is_refused_without_what_may_be_a_password(
    call: Call, url: str, said: str
) -> None:
    for command in (("runs", "list"), ("doctor",), ("db", "check")):
        result = call(*command, "--db", url)
        assert said in result.output
        assert "sec" not in result.output and "retpw" not in result.output


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (("runs", "list"), "--db, or a server with --server"),
        (("run", "--resume", "1"), "with --db\n"),
        (("db", "check"), "with --db\n"),
    ],
)
def test_a_missing_file_comes_with_advice_that_the_command_can_follow(
    call: Call, command: tuple[str, ...], advice: str
) -> None:
    result = call(*command)
    assert result.exit_code == 3
    assert advice in result.stderr


def test_a_folder_that_cannot_be_made_is_named(call: Call) -> None:
    Path("graph.yaml").write_text(GRAPH)
    Path("file").touch()
    result = call("run", "graph.yaml", "--data-dir", "file")
    assert result.exit_code == 3
    assert result.stderr.startswith("error: the database sqlite:///file/task-engine.db cannot be opened: ")
    assert "Errno" not in result.stderr


def test_without_a_server_and_without_a_file_nothing_is_made(call: Call, empty_folder: Path) -> None:
    result = call("runs", "list")
    assert result.exit_code == 3
    assert "there is no database file data/task-engine.db" in result.stderr
    assert list(empty_folder.iterdir()) == []


def test_a_server_that_is_not_there_ends_with_4(call: Call) -> None:
    result = call("runs", "list", "--server", "http://127.0.0.1:1")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: no server answers at http://127.0.0.1:1")


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x", "http://", "http://user:secret@host", "http://h?x"]
)
def test_what_is_no_server_url_is_refused(call: Call, url: str) -> None:
    result = call("runs", "list", "--server", url)
    assert result.exit_code == 2
    assert "secret" not in result.output


def test_either_database_can_be_looked_at(database_url: str, call: Call) -> None:
    assert call("runs", "list", "--db", database_url).exit_code == 0
    Path("graph.yaml").write_text(GRAPH)
    assert call("task", "submit", "graph.yaml", "--db", database_url).exit_code == 0
    assert "report" in call("runs", "list", "--db", database_url).stdout


def test_settings_reach_the_worker_and_the_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LEASE": "60s", "BEAT": "7s", "QUEUES": "a,b", "PROCESS_MEMORY_MIB": "64"}.items():
        monkeypatch.setenv(f"ENGINE_{name}", value)
    options = configured.worker_options(load({"max_concurrency": 3}))
    assert (options.lease_seconds, options.beat_seconds, options.queues) == (60.0, 7.0, ("a", "b"))
    assert options.concurrency == 3
    executors = configured.executor_settings(load(), is_local=False)
    assert (executors.limits.memory_mib, executors.allow_scripts) == (64, False)
    monkeypatch.setenv("ENGINE_ALLOW_SCRIPTS", "true")
    assert configured.executor_settings(load(), is_local=False).allow_scripts
