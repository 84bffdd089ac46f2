"""`task-engine-server` with the file of the contract: as a process, on both databases."""

from __future__ import annotations

import json
import signal
import socket
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest
from click.testing import Result

from engine.client.rest import Client
from engine.model.records import Task
from tests.cli.process import Program
from tests.test_contract_settings import SEED

Call = Callable[..., Result]
ROOT = Path(__file__).resolve().parents[2]
ENTRY = ("-c", "from engine.__main__ import server; server()")
TOKEN = "0123456789abcdef0123456789abcdef"
PROBE = """
workflows:
  jobs:
    - {job_id: fetch, func_key: http_request}
    - {job_id: say, func_key: shell_command, timeout: 20s}
  definitions:
    - workflow_id: probe
      params: {url: ""}
      tasks:
        - {task_id: fetch, job_id: fetch, params: {url: "${url}"}}
        - task_id: say
          job_id: say
          dependencies: [fetch]
          params: {command: echo, args: ["status ${{ tasks.fetch.result.status_code }}"]}
"""

Serve = Callable[..., Program]


@pytest.fixture
def serve(start: Callable[..., Program], monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Starts `task-engine-server` on a free port."""
    monkeypatch.delenv("ENGINE_ADDR")

    def run(*arguments: str, **env: str) -> Program:
        return start(*arguments, "--port", "0", entry=ENTRY, env={"ENGINE_BOOTSTRAP_TOKEN": TOKEN, **env})

    return run


def config(text: str, name: str = "server.yaml") -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)
    return name


def on(database_url: str) -> str:
    """The file of the seed, for this database."""
    is_file = database_url.startswith("sqlite:///")
    kind, dsn = ("sqlite", database_url.removeprefix("sqlite:///")) if is_file else ("postgres", database_url)
    return SEED.replace('"sqlite"', kind).replace('"./data/task-engine.db"', json.dumps(dsn))


def client_of(server: Program) -> Client:
    return Client(str(server.event("server.started")["url"]), TOKEN)


def executed(client: Client) -> dict[str, Task]:
    """The tasks of one run of the workflow, after it has ended."""
    client.upload_workflow(PROBE)
    run_id = int(client.execute("probe", {"url": f"{client.url}/health"})["instance_id"])
    client.wait(run_id, timeout=60)
    assert client.instance(str(run_id))["status"] == "Success"
    return {task.name: task for task in client.tasks(run_id)}


def test_the_file_of_the_seed_makes_a_server_that_runs_its_functions(serve: Serve, database_url: str) -> None:
    server = serve("--config", config(on(database_url)))
    started = server.event("server.started")
    assert (started["addr"].rpartition(":")[0], started["config"]) == ("0.0.0.0", "server.yaml")
    with Client(started["url"], TOKEN) as client:
        found = executed(client)
        [worker] = client.workers(only_live=True)
    assert worker.concurrency == 20
    assert (found["fetch"].timeout_ms, found["say"].timeout_ms) == (60_000, 20_000)
    assert found["fetch"].last is not None and found["say"].last is not None
    assert found["fetch"].last.result["status_code"] == 200
    assert found["say"].last.result["stdout"] == "status 200\n"
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    port = started["addr"].rpartition(":")[2]
    assert server.errors == [f"✅ Task Engine Server started on :{port}"]


def test_several_worker_processes_belong_to_it(serve: Serve, row_locking_url: str) -> None:
    text = on(row_locking_url) + "workers: 2\n"
    server = serve("--config", config(text), "--host", "127.0.0.1")
    with client_of(server) as client:
        found = executed(client)
    assert found["fetch"].timeout_ms == 60_000
    below = psutil.Process(server.process.pid).children(recursive=True)
    assert len([child for child in below if "engine.worker.process" in " ".join(child.cmdline())]) >= 2
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_functions_that_are_not_listed_are_not_there(serve: Serve) -> None:
    server = serve("--config", config(SEED.partition("functions:")[0]), "--host", "127.0.0.1")
    with client_of(server) as client:
        answer = httpx.post(
            f"{client.url}/api/v1/workflows",
            json={"content": PROBE},
            headers={"Authorization": f"Bearer {TOKEN}"},
        )
    assert answer.status_code == 400
    assert 'unknown function "http_request"' in answer.json()["message"]


def test_a_settings_file_in_one_of_the_usual_places_is_found(serve: Serve) -> None:
    config(SEED.replace("worker_concurrency: 20", "worker_concurrency: 1"), "engine.yaml")
    config(SEED.replace("worker_concurrency: 20", "worker_concurrency: 2"), "configs/engine.yaml")
    found = config(SEED.replace("worker_concurrency: 20", "worker_concurrency: 3"), "configs/server.yaml")
    named = config("max_concurrency: 4\n", "other.yaml")
    for arguments, env, expected in (
        ((), {}, (3, found)),
        ((), {"ENGINE_CONFIG": named}, (4, named)),
        (("--config", named), {}, (4, named)),
    ):
        server = serve(*arguments, "--host", "127.0.0.1", ENGINE_DATA_DIR="own", **env)
        worker, started = server.event("worker.started"), server.event("server.started")
        assert (worker["concurrency"], started["config"]) == expected
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_server_start_finds_it_as_well(start: Callable[..., Program], serve: Serve) -> None:
    config(SEED.replace("worker_concurrency: 20", "worker_concurrency: 6"), "config/engine.yaml")
    server = start("server", "start", "--host", "127.0.0.1", "--port", "0")
    assert server.event("worker.started")["concurrency"] == 6
    assert server.event("server.started")["config"] == "config/engine.yaml"


def test_the_host_of_the_file_needs_a_token(serve: Serve) -> None:
    refused = serve("--config", config(SEED), ENGINE_BOOTSTRAP_TOKEN="")
    assert refused.wait() == 2
    assert "task-engine token create" in refused.error_text


def test_limits_of_time_are_those_of_the_file(serve: Serve) -> None:
    text = SEED.replace("read_timeout: 30s", "read_timeout: 200ms")
    server = serve("--config", config(text), "--host", "127.0.0.1")
    url = httpx.URL(server.event("server.started")["url"])
    with socket.create_connection((url.host, url.port), timeout=30) as connection:
        connection.sendall(b"POST /tasks HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        answer = connection.makefile("rb").read()  # to the end, which the server makes
    assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("worker_concurrency: 20", "worker_concurrency: 0", "task-engine.execution.worker_concurrency: "),
        ("read_timeout: 30s", "read_timeout: soon", 'server.read_timeout: "soon" is not a duration'),
        ('type: "sqlite"', "type: mysql", "task-engine.storage.database.type: mysql is not supported"),
        (
            'type: "sqlite"\n      dsn: "./data/task-engine.db"',
            "type: postgres\n      dsn: host=127.0.0.1 port=abc",
            "task-engine.storage.database.dsn: has a port that is no number",
        ),
        ("- http_request", "- http_reqest", 'functions.builtin: "http_reqest" is not a built-in function'),
    ],
)
def test_a_wrong_value_stops_the_start_with_its_key(call: Call, old: str, new: str, said: str) -> None:
    result = call("server", "start", "--config", config(SEED.replace(old, new)))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: server.yaml:") and said in result.stderr


def test_it_explains_itself(start: Callable[..., Program]) -> None:
    helped = start("--help", entry=ENTRY)
    assert helped.wait() == 0
    assert all(flag in helped.text for flag in ("--config", "--host", "--port"))
    wrong = start("--prot", "1", entry=ENTRY)
    assert wrong.wait() == 2
    assert wrong.errors[0].startswith("error: No such option") and "--prot" in wrong.errors[0]


def test_the_command_is_installed() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["task-engine-server"] == "engine.__main__:server"
