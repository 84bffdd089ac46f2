"""The seed's example, in Python: builder, functions, services, a workflow run and its history."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import engine
from engine import EngineBuilder, SyncContext, TaskBuilder, WorkflowBuilder
from engine.errors import ConfigError
from engine.executors.base import ExecutorSettings, ProcessLimits

pytestmark = pytest.mark.anyio


def extract_data(ctx: SyncContext) -> dict[str, Any]:
    return {"rows": [1, 2, 3]}


def transform_data(ctx: SyncContext) -> dict[str, Any]:
    found = ctx.get_upstream_result("extract")
    return {"rows": [row * 2 for row in found["rows"]]}


def load_data(ctx: SyncContext) -> int:
    rows = ctx.get_upstream_value("transform", "rows")
    ctx.get_dependency("db").extend(rows)
    return len(rows)


def flow() -> engine.Workflow:
    extract = (
        TaskBuilder("extract", "from the source").with_job_function("my_extract").with_timeout(60).build()
    )
    transform = (
        TaskBuilder("transform", "clean")
        .with_job_function("my_transform")
        .with_dependencies("extract")
        .build()
    )
    load = TaskBuilder("load", "store").with_job_function("my_load").with_dependencies("transform").build()
    builder = WorkflowBuilder("etl", "extract, transform, load")
    return builder.with_task(extract).with_task(transform).with_task(load).build()


async def test_the_example_of_the_contract(tmp_path: Path) -> None:
    config = tmp_path / "engine.yaml"
    config.write_text(f"database_url: sqlite:///{tmp_path / 'engine.db'}\nmax_concurrency: 4\n")
    db: list[int] = []
    built = (
        EngineBuilder(config)
        .with_job_func("my_extract", extract_data)
        .with_job_func("my_transform", transform_data)
        .with_function_map({"my_load": load_data})
        .with_service("db", db)
        .restore_functions_on_start()
        .build()
    )
    await built.start()
    try:
        instance = await built.execute_workflow(flow())
        done = await built.wait_for_instance(instance.run.id, timeout=30)
        assert (done.run.state, db) == ("succeeded", [2, 4, 6])
        history = await built.get_workflow_history(done.workflow_id, 10, 0)
        assert [item.run.id for item in history] == [instance.run.id]

        paused = await built.execute_workflow("etl")
        await built.cancel_instance(paused.run.id)
        assert (await built.wait_for_instance(paused.run.id, timeout=30)).run.finished_at is not None
    finally:
        await built.stop()


async def test_names_without_code_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path / 'engine.db'}"
    async with EngineBuilder(url=url).with_job_func("gone", load_data).build():
        pass
    async with EngineBuilder(url=url).restore_functions_on_start().build() as built:
        assert await built.missing_functions() == ["gone"]


def test_a_name_is_taken_once() -> None:
    builder = EngineBuilder(url="sqlite://").with_job_func("f", extract_data).with_service("db", 1)
    with pytest.raises(ConfigError, match='"f"'):
        builder.with_job_func("f", load_data)
    with pytest.raises(ConfigError, match="there is a service 'db' already"):
        builder.with_service("db", 2)


async def test_every_setting_of_workers_and_of_what_tasks_may_do_holds(tmp_path: Path) -> None:
    given = {
        "max_concurrency": 7,
        "queues": ["a", "b"],
        "worker_name": "mine",
        "lease": "9s",
        "beat": "2s",
        "sweep": "3s",
        "poll": "250ms",
        "shutdown_timeout": "4s",
        "retention": "2d",
        "wake": False,
        "workers": 0,
        "shared": True,
        "default_task_timeout": "11s",
        "timezone": "Asia/Tokyo",
        "file_root": str(tmp_path),
        "shell_policy": "open",
        "allow_scripts": False,
        "allow_cli_skills": False,
        "allow_private_network": False,
        "process_memory_mib": 100,
        "process_cpu_seconds": 5,
        "process_count": 3,
        "process_output_bytes": 4096,
    }
    told = EngineBuilder(url=f"sqlite:///{tmp_path / 'engine.db'}", **given).build()
    assert told._options == engine.WorkerOptions(
        concurrency=7,
        queues=("a", "b"),
        name="mine",
        lease_seconds=9.0,
        beat_seconds=2.0,
        sweep_seconds=3.0,
        poll_seconds=0.25,
        grace_seconds=4.0,
        retention_seconds=2 * 86_400.0,
    )
    assert told._executor_settings == ExecutorSettings(
        file_root=tmp_path,
        shell_policy="open",
        allow_scripts=False,
        allow_cli_skills=False,
        allow_private_network=False,
        limits=ProcessLimits(100, 5, 3, 4096),
        threads=7,
    )
    assert (told._workers, told._exclusive, told._wakes_others) == (0, False, False)
    assert (told._run_defaults.timeout_ms, told._run_defaults.timezone) == (11_000, "Asia/Tokyo")


class Silent:
    name = "silent"

    def init(self, params: Any) -> None: ...

    def execute(self, data: Any) -> None: ...


async def test_what_tasks_may_do_holds_for_functions_streams_and_plug_ins(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    builder = EngineBuilder(
        url=f"sqlite:///{path}", allow_private_network=False, allow_scripts=False, file_root=str(tmp_path)
    )
    built = builder.with_job_func("load", load_data).with_plugin(Silent()).build()
    async with built, AsyncExitStack() as stack:
        registry = built._make_registry(built._database, stack)
        for kind in ("shell", "http", "file", "function", "realtime", "plugin"):
            executor: Any = registry.get(kind)
            settings = getattr(executor, "settings", None) or executor._settings
            assert (settings.allow_private_network, settings.allow_scripts) == (False, False), kind
            assert settings.file_root == tmp_path
            assert path in settings.protected_files
