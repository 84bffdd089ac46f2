"""`task-engine server start` and `worker start`: as processes, with signals, on both databases.

Databases come before `start` in each signature: they go away after the processes that use them.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa
from click.testing import Result

from engine.store import migrate
from engine.store.database import Database
from tests.cli.process import Program, wait_for_file, wait_until_gone
from tests.support.postgres import Server

Call = Callable[..., Result]
Start = Callable[..., Program]
TOKEN = "0123456789abcdef0123456789abcdef"


def url_of(server: Program) -> str:
    return str(server.event("server.started")["url"])


def submit(url: str, *tasks: dict[str, Any], token: str | None = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.post(f"{url}/tasks", json={"tasks": list(tasks)}, headers=headers)


def script(name: str, text: str, *depends_on: str) -> dict[str, Any]:
    return {"id": name, "type": "shell", "params": {"script": text}, "depends_on": list(depends_on)}


# --- start


def test_it_serves_and_works_and_stops_with_0(start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0")
    url = url_of(server)
    assert httpx.get(f"{url}/health").json()["status"] == "ok"
    assert submit(url, script("a", "echo hi")).status_code == 202
    assert call("task", "wait", "a", "--server", url).exit_code == 0
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.event("server.stopped")["level"] == "INFO"
    assert server.errors == [f"✅ Task Engine Server started on {url.removeprefix('http://')}"]


def test_every_line_it_prints_is_a_json_object_with_time_level_and_message(start: Start) -> None:
    server = start("server", "start", "--port", "0", "--grpc-addr", ":50051")
    url_of(server)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    lines = [json.loads(line) for line in server.output]
    assert all({"time", "level", "msg"} <= line.keys() for line in lines)
    assert [line["msg"] for line in lines].count("server.grpc_unavailable") == 1


def test_the_flags_and_variables_of_execgo_work(start: Start, empty_folder: Path) -> None:
    server = start(
        *("server", "start", "-addr", "127.0.0.1:0", "-grpc-addr", ":50051", "-data-dir", "state"),
        *("-max-concurrency", "0", "-shutdown-timeout", "7"),
        env={"EXECGO_MAX_CONCURRENCY": "3"},
    )
    assert server.event("worker.started")["concurrency"] == 10  # zero is the default, whoever else says what
    url_of(server)
    assert (empty_folder / "state" / "task-engine.db").exists()


def test_it_starts_on_either_database(database_url: str, start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0", "--db", database_url)
    url = url_of(server)
    assert submit(url, script("a", "echo hi"), script("b", "echo ho", "a")).status_code == 202
    assert call("task", "wait", "a", "b", "--server", url).exit_code == 0


def test_a_server_without_workers_leaves_work_to_others(database_url: str, start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0", "--workers", "0", "--shared", "--db", database_url)
    url = url_of(server)
    assert submit(url, script("a", "echo hi")).status_code == 202
    assert httpx.get(f"{url}/tasks/a").json()["status"] == "pending"
    worker = start("worker", "start", "--db", database_url, "--concurrency", "2", "--queues", "default,other")
    assert worker.event("worker.started")["concurrency"] == 2
    assert call("task", "wait", "a", "--server", url).exit_code == 0
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0


@pytest.mark.parametrize("flags", [(), ("--shared",)])
def test_a_server_whose_tasks_nobody_can_run_says_so(start: Start, flags: tuple[str, ...]) -> None:
    server = start("server", "start", "--port", "0", "--workers", "0", *flags)
    url_of(server)
    warned = [json.loads(line)["level"] for line in server.output if "server.nobody_works" in line]
    assert warned == ([] if flags else ["WARNING"])


def test_a_pool_of_worker_processes_works_and_ends_with_its_supervisor(
    row_locking_url: str, start: Start, call: Call
) -> None:
    worker = start("worker", "start", "--db", row_locking_url, "--processes", "2")
    worker.event("worker.started")
    worker.event("worker.started")
    children = psutil.Process(worker.process.pid).children(recursive=True)
    Path("graph.json").write_text(json.dumps({"tasks": [{"name": "a", "kind": "noop"}]}))
    done = call("task", "submit", "graph.json", "--wait", "--db", row_locking_url)
    assert done.exit_code == 0, done.output
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    for child in children:
        wait_until_gone(child.pid)


def test_a_server_with_several_worker_processes(row_locking_url: str, start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0", "--workers", "2", "--db", row_locking_url)
    url = url_of(server)
    assert submit(url, script("a", "echo hi")).status_code == 202
    assert call("task", "wait", "a", "--server", url).exit_code == 0
    server.signal(signal.SIGINT)
    assert server.wait() == 0


# --- stop


def test_a_stop_lets_running_tasks_end(start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0")
    url = url_of(server)
    submit(url, script("a", "echo > begun; while ! test -e go; do sleep 0.05; done; echo done"))
    wait_for_file(Path("begun"), server)
    server.signal(signal.SIGTERM)
    server.event("process.stopping")
    Path("go").touch()
    assert server.wait() == 0
    assert json.loads(call("task", "get", "a", "--json", "--data-dir", "data").stdout)["status"] == "success"


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    server = start("server", "start", "--port", "0", "--shutdown-timeout", "100s")
    submit(url_of(server), script("a", "trap '' TERM; echo $$ > begun; while :; do sleep 1; done"))
    wait_for_file(Path("begun"), server)
    server.signal(signal.SIGTERM)
    server.event("process.stopping")
    server.signal(signal.SIGTERM)
    assert server.wait() == 1
    wait_until_gone(int(Path("begun").read_text()))


def test_unfinished_work_is_left_for_the_next_start(start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0", "--shutdown-timeout", "100ms")
    submit(url_of(server), script("a", "echo > begun; test -e go || sleep 100"), script("b", "true", "a"))
    wait_for_file(Path("begun"), server)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    Path("go").touch()
    again = start("server", "start", "--port", "0")
    assert call("task", "wait", "a", "b", "--server", url_of(again)).exit_code == 0


# --- refusals


def test_other_machines_need_a_token(start: Start, call: Call) -> None:
    refused = start("server", "start", "--addr", ":0")
    assert refused.wait() == 2
    assert "task-engine token create --name admin --scope admin" in refused.error_text
    assert "--insecure-no-auth" in refused.error_text
    secret = call("token", "create", "--name", "all", "--scope", "admin", "--data-dir", "data").stdout.strip()
    server = start("server", "start", "--addr", ":0")
    url = url_of(server)
    assert submit(url, script("a", "true")).status_code == 401
    assert submit(url, script("a", "true"), token="te_x_y").status_code == 401
    assert submit(url, script("a", "true"), token=secret).status_code == 202
    done = call("task", "wait", "a", "--server", url, "--token", secret)
    assert done.exit_code == 1  # scripts are off here, and the task says so
    assert "allow_scripts" in done.stdout
    denied = call("runs", "list", "--server", url)
    assert denied.exit_code == 1
    assert "ENGINE_TOKEN" in denied.stderr


def test_a_bootstrap_token_will_do(start: Start) -> None:
    short = start("server", "start", "--addr", ":0", env={"ENGINE_BOOTSTRAP_TOKEN": "short"})
    assert short.wait() == 2
    server = start("server", "start", "--addr", ":0", env={"ENGINE_BOOTSTRAP_TOKEN": TOKEN})
    url = url_of(server)
    assert submit(url, {"id": "a", "type": "noop"}, token=TOKEN).status_code == 202
    assert TOKEN not in server.text


def test_no_token_is_needed_if_the_operator_says_so(start: Start) -> None:
    url = url_of(start("server", "start", "--addr", ":0", "--insecure-no-auth"))
    assert submit(url, {"id": "a", "type": "noop"}).status_code == 202
    assert httpx.get(f"{url}/tasks", headers={"Host": "evil.example"}).status_code == 403
    assert httpx.get(f"{url}/tasks", headers={"Host": f"{socket.gethostname()}:8080"}).status_code == 200


def test_a_unix_socket_serves_without_a_token_and_goes_away_with_the_server(start: Start) -> None:
    server = start("server", "start", "--addr", "unix:engine.sock")
    assert server.event("server.started")["addr"] == "unix:engine.sock"
    path = Path("engine.sock")
    assert path.stat().st_mode & 0o777 == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        assert client.get("/tasks").status_code == 200
        assert client.get("/tasks", headers={"Host": "evil.example"}).status_code == 403
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not path.exists()


def test_a_socket_that_cannot_be_made_ends_with_2(call: Call) -> None:
    result = call("server", "start", "--addr", "unix:nowhere/engine.sock")
    assert result.exit_code == 2
    assert "cannot listen on nowhere/engine.sock" in result.stderr


def test_a_port_alone_is_one_of_this_machine_even_if_a_socket_is_configured(start: Start) -> None:
    server = start("server", "start", "--port", "0", env={"ENGINE_ADDR": "unix:engine.sock"})
    assert url_of(server).startswith("http://localhost:")


@pytest.mark.parametrize(("access_log", "statuses"), [("all", [200, 404]), ("errors", [404]), ("off", [])])
def test_requests_are_logged_as_set(start: Start, access_log: str, statuses: list[int]) -> None:
    server = start("server", "start", "--port", "0", env={"ENGINE_ACCESS_LOG": access_log})
    url = url_of(server)
    for path in ("/tasks", "/tasks/nobody"):
        httpx.get(f"{url}{path}")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    lines = [json.loads(line) for line in server.output]
    assert [line["status"] for line in lines if line["msg"] == "request"] == statuses


def test_private_addresses_can_be_closed_to_tasks(start: Start, call: Call) -> None:
    url = url_of(start("server", "start", "--port", "0", env={"ENGINE_ALLOW_PRIVATE_NETWORK": "false"}))
    submit(url, {"id": "a", "type": "http", "params": {"url": f"{url}/health"}})
    done = call("task", "wait", "a", "--server", url)
    assert done.exit_code == 1
    assert "127.0.0.1 is not a public address" in done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
@pytest.mark.parametrize(
    "command", [("server", "start", "--port", "0"), ("worker", "start"), ("run", "graph.json")]
)
def test_secrets_are_gone_from_arguments_and_environment(
    row_locking_url: str, start: Start, command: tuple[str, ...]
) -> None:
    url = sa.make_url(row_locking_url).set(password="hunter2").render_as_string(hide_password=False)
    script = "echo > begun; while ! test -e go; do sleep 0.05; done"
    task = {"name": "a", "kind": "shell", "params": {"script": script}}
    Path("graph.json").write_text(json.dumps({"tasks": [task]}))
    if command[0] != "run":
        assert start("task", "submit", "graph.json", "--db", url).wait() == 0
    env = {"ENGINE_DATABASE_URL": url, "ENGINE_TOKEN": TOKEN}
    program = start(*command, "--db", url, env=env)
    wait_for_file(Path("begun"), program)
    for name in ("cmdline", "environ"):
        seen = Path(f"/proc/{program.process.pid}/{name}").read_bytes()
        assert b"hunter2" not in seen
        assert TOKEN.encode() not in seen
    Path("go").touch()


def test_an_address_in_use_ends_with_2(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = start("server", "start", "--port", str(taken.getsockname()[1]))
        assert server.wait() == 2
    assert "cannot listen on 127.0.0.1" in server.error_text


@pytest.mark.parametrize("flags", [("--addr", "8080"), ("--addr", ":1", "--port", "2"), ("--workers", "-1")])
def test_wrong_usage_ends_with_2(call: Call, flags: tuple[str, ...]) -> None:
    result = call("server", "start", *flags)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")


@pytest.mark.parametrize("command", [("server", "start", "--port", "0"), ("worker", "start")])
def test_a_schema_that_is_not_there_ends_with_3(
    call: Call, cluster: Server, command: tuple[str, ...]
) -> None:
    result = call(*command, "--db", cluster.url("postgres"))
    assert result.exit_code == 3
    assert "task-engine db upgrade" in result.stderr


def test_a_file_that_another_process_has_alone_ends_with_3(call: Call, empty_folder: Path) -> None:
    database = Database("sqlite:///taken.db", exclusive=True)
    try:
        migrate.upgrade(database.engine)
        for command in (("runs", "list"), ("server", "start", "--port", "0"), ("worker", "start")):
            result = call(*command, "--db", "sqlite:///taken.db")
            assert result.exit_code == 3
            assert "in use" in result.stderr
        assert "--server URL" in call("runs", "list", "--db", "sqlite:///taken.db").stderr
    finally:
        database.close()


def test_a_worker_makes_no_database(call: Call, empty_folder: Path) -> None:
    result = call("worker", "start", "--db", "sqlite:///nowhere.db")
    assert result.exit_code == 3
    assert "there is no database file nowhere.db; `task-engine db upgrade` makes one" in result.stderr
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("number", ["0", "-1"])
def test_a_worker_that_could_do_nothing_is_wrong_usage(call: Call, number: str) -> None:
    result = call("worker", "start", "--concurrency", number)
    assert result.exit_code == 2
    assert "--concurrency" in result.stderr


def test_settings_that_contradict_each_other_are_refused(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_BEAT", "15s")
    result = call("worker", "start")
    assert result.exit_code == 2
    assert "half of lease" in result.stderr
