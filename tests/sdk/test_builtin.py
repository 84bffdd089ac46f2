"""The built-in functions: what the kinds `http` and `shell` do, under the contract's names."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine import EngineBuilder, Task, UndoFunction, Workflow, WorkflowTask
from engine.errors import ConfigError, Conflict
from engine.executors.base import ExecutorSettings
from engine.executors.function import FunctionExecutor
from engine.executors.http import HttpExecutor
from engine.executors.registry import ExecutorRegistry
from engine.executors.shell import ShellExecutor
from engine.functions.builtin import BUILTIN, http_request
from engine.functions.registry import FunctionRegistry
from engine.model.outcomes import Failed, Succeeded
from engine.sdk.contract import WorkflowEngine
from tests.executors.factories import make_context, make_settings
from tests.executors.servers import Answer, HttpServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def http_server(anyio_backend: str) -> AsyncIterator[HttpServer]:
    async with HttpServer() as server:
        yield server


def built(url: str) -> WorkflowEngine:
    return EngineBuilder(url=url).with_builtin_functions().build()


async def ended(engine: WorkflowEngine, *tasks: WorkflowTask) -> dict[str, Task]:
    started = await engine.execute(Workflow("flow", tasks=tasks))
    await engine.wait(started.run_id, timeout=60)
    return {task.name: task for task in await engine.tasks(started.run_id)}


def seen(task: Task) -> tuple[str, Any, Any]:
    """How a task ended, without what differs from request to request."""
    assert task.last is not None
    error = None if task.last.error is None else task.last.error["message"]
    return task.state, task.last.result, error


async def test_they_do_what_the_kinds_do(database_url: str, http_server: HttpServer) -> None:
    http_server.routes["/echo"] = lambda request: Answer(status=201, body=request.body)
    fetch = {"url": f"{http_server.url}/echo", "method": "POST", "body": {"a": 1}, "headers": None}
    lost = {"url": "ftp://nowhere"}
    say = {"command": "echo", "args": ["hello"]}
    fail = {"script": "echo no >&2; exit 3"}
    kinds = {"http": (fetch, lost), "shell": (say, fail)}
    names = {"http": "http_request", "shell": "shell_command"}
    tasks = [
        task
        for kind, each in kinds.items()
        for number, params in enumerate(each)
        for task in (
            WorkflowTask(f"{kind} {number}", kind=kind, params=params),
            WorkflowTask(f"{names[kind]} {number}", function=names[kind], params=params),
        )
    ]
    async with built(database_url) as engine:
        found = await ended(engine, *tasks)
    for kind, name in names.items():
        for number in range(2):
            assert seen(found[f"{name} {number}"]) == seen(found[f"{kind} {number}"])
    assert found["http_request 0"].last is not None and found["shell_command 1"].last is not None
    assert found["http_request 0"].last.result["status_code"] == 201
    assert found["shell_command 1"].last.result["exit_code"] == 3


async def test_results_reach_the_next_task(database_url: str, http_server: HttpServer) -> None:
    async with built(database_url) as engine:
        found = await ended(
            engine,
            WorkflowTask("get", function="http_request", params={"url": f"{http_server.url}/hello"}),
            WorkflowTask(
                "say",
                function="shell_command",
                params={"command": "echo", "args": ["got ${{ tasks.get.result.status_code }}"]},
                depends_on=["get"],
            ),
        )
    assert found["say"].last is not None
    assert found["say"].last.result["stdout"] == "got 200\n"


async def test_they_undo_what_failed(database_url: str, http_server: HttpServer) -> None:
    taken: list[bytes] = []
    http_server.routes["/undo"] = lambda request: Answer(body=taken.append(request.body) or b"{}")
    undo = {"url": f"{http_server.url}/undo", "method": "POST", "body": {"seat": "A1"}}
    seat = {"command": "echo", "args": ["A1"]}
    async with built(database_url) as engine:
        found = await ended(
            engine,
            WorkflowTask(
                "reserve",
                function="shell_command",
                params=seat,
                compensation=UndoFunction("http_request", undo),
            ),
            WorkflowTask(
                "pay", function="shell_command", params={"command": "false"}, depends_on=["reserve"]
            ),
        )
        saga = await engine.saga(found["pay"].run_id)
        assert saga.compensation_run_id is not None
        await engine.wait(saga.compensation_run_id, timeout=60)
    assert taken == [b'{"seat": "A1"}']


async def test_they_obey_the_operator_as_the_kinds_do(tmp_path: Path) -> None:
    async def outcome(name: str, settings: ExecutorSettings, **params: Any) -> Any:
        registry = ExecutorRegistry.from_executors([HttpExecutor(settings), ShellExecutor(settings)])
        context = make_context()
        context.executor_of = registry.get
        executor = FunctionExecutor(FunctionRegistry(BUILTIN), settings=settings)
        try:
            return await executor.execute(context, {"function": name, "params": params})
        finally:
            await executor.close()

    closed = make_settings(tmp_path, allow_scripts=False, allow_private_network=False)
    said = [
        await outcome("shell_command", closed, script="echo hi"),
        await outcome("shell_command", closed, command="rm"),
        await outcome("http_request", closed, url="http://127.0.0.1:1/"),
    ]
    assert all(isinstance(each, Failed) for each in said)
    assert [
        word in each.message
        for each, word in zip(said, ("allow_scripts", "whitelist", "not a public address"), strict=True)
    ] == [True] * 3
    allowed = await outcome("shell_command", make_settings(tmp_path), script="pwd")
    assert isinstance(allowed, Succeeded) and allowed.result["stdout"] == f"{tmp_path}\n"


async def test_wrong_parameters_are_told_before_anything_is_sent(tmp_path: Path) -> None:
    executor = FunctionExecutor(FunctionRegistry(BUILTIN), settings=make_settings(tmp_path))
    try:
        missing = await executor.execute(make_context(), {"function": "http_request", "params": {}})
        assert isinstance(missing, Failed) and "url: missing" in missing.message
        unknown = {"function": "shell_command", "params": {"comand": "ls"}}
        with pytest.raises(ValueError, match='did you mean "command"'):
            executor.check(unknown)
        alone = await executor.execute(make_context(), {"function": "http_request", "params": {"url": "x"}})
        assert isinstance(alone, Failed) and Conflict.code == alone.code
    finally:
        await executor.close()


def test_a_name_is_taken_by_one_function() -> None:
    builder = EngineBuilder(url="sqlite://").with_builtin_functions("http_request").with_builtin_functions()
    with pytest.raises(ConfigError, match='"shell_command" is registered twice'):
        builder.with_job_func("shell_command", lambda: None)
    with pytest.raises(ConfigError, match='did you mean "http_request"'):
        EngineBuilder(url="sqlite://").with_builtin_functions("http_requst")


async def test_ready_made_handlers_are_there_when_they_are_named() -> None:
    builder = EngineBuilder(url="sqlite://").with_builtin_functions("task_engine.log_error")
    async with builder.build() as engine:
        assert [each.name for each in (await engine.list_functions())] == ["task_engine.log_error"]
    async with EngineBuilder(url="sqlite://").with_builtin_functions().build() as engine:
        assert [each.name for each in (await engine.list_functions())] == ["http_request", "shell_command"]


async def test_a_file_of_the_contract_makes_an_engine(tmp_path: Path) -> None:
    config = tmp_path / "engine.yaml"
    config.write_text(
        f"task-engine:\n  storage: {{database: {{type: sqlite, dsn: '{tmp_path / 'engine.db'}'}}}}\n"
        "  execution: {worker_concurrency: 3, default_task_timeout: 90s}\n"
        "functions: {builtin: [shell_command]}\n"
    )
    async with EngineBuilder(config).build() as engine:
        say = WorkflowTask("say", function="shell_command", params={"script": "echo hi"})
        found = await ended(engine, say)
        assert await engine.missing_functions() == []
    assert found["say"].timeout_ms == 90_000
    assert found["say"].last is not None and found["say"].last.result["stdout"] == "hi\n"


def test_it_is_a_function_like_any() -> None:
    described = {each["name"]: each["params"] for each in FunctionRegistry(BUILTIN).describe()}
    assert described["http_request"]["required"] == ["url"]
    assert set(described["shell_command"]["properties"]) == {"command", "args", "script", "runner", "dir"}
    assert http_request.function.takes_context
