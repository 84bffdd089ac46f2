"""The seed's example, in Python: builder, functions, services, a workflow run and its history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import engine
from engine import EngineBuilder, SyncContext, TaskBuilder, WorkflowBuilder
from engine.errors import ConfigError

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
