"""What pytest gets by installing the package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import psycopg
import sqlalchemy as sa

from tests.sdk.callers import libpq
from tests.support.postgres import Server
from tests.testing.project import run_tests

ROOT = Path(__file__).resolve().parents[2]
_HEAVY = """
import sys
import engine.testing.plugin
print(sorted({"sqlalchemy", "psycopg", "pydantic", "alembic", "httpx", "engine.store"} & set(sys.modules)))
"""
_ENGINE = """
from datetime import timedelta
from engine import Context, Workflow, WorkflowTask, task


@task
async def slow(ctx: Context) -> str:
    print("it was printed")
    await ctx.sleep(timedelta(days=30))
    return ctx.get_dependency("word")


def test_a_month_passes(task_engine):
    task_engine.add_functions(slow)
    task_engine.add_services(word="done")
    ended = task_engine.run(Workflow("w", tasks=[WorkflowTask("slow", function="slow")]))
    assert ended.check().result("slow") == "done"
    assert ended.logs("slow") == ["it was printed"]


def test_each_test_has_an_engine_of_its_own(task_engine):
    assert task_engine.list_runs() == [] and task_engine.missing_functions() == []
    before = task_engine.clock.moment
    assert task_engine.advance(hours=1) - before >= timedelta(hours=1)


def test_one_that_is_not_used_costs_nothing(task_engine):
    assert task_engine._loop is None
"""
_URL = """
import asyncio
import engine
import pytest


@pytest.mark.parametrize("time", [1, 2])
def test_it_is_fresh_each_time(task_engine_url, time):
    assert task_engine_url.startswith("{begin}")

    async def main():
        async with engine.Engine(task_engine_url) as e:
            accepted = await e.submit(engine.graph([{{"name": "a", "kind": "noop"}}]))
            await e.wait(accepted.run_id, timeout=30)
            return len(await e.list_runs())

    assert asyncio.run(main()) == 1
"""


def test_the_entry_point_leads_to_the_fixtures() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module = import_module(project["entry-points"]["pytest11"]["task_engine"])
    assert {"task_engine", "task_engine_url"} <= set(vars(module))


def test_a_pytest_that_uses_no_fixture_loads_nothing_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", _HEAVY], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_engine_in_memory_for_each_test(tmp_path: Path) -> None:
    assert "3 passed" in run_tests(tmp_path, _ENGINE)


def test_a_file_for_each_test(tmp_path: Path) -> None:
    assert "2 passed" in run_tests(tmp_path, _URL.format(begin="sqlite:///"))


def test_a_database_on_a_server_for_each_test(tmp_path: Path, cluster: Server) -> None:
    server = libpq(sa.make_url(cluster.url("postgres")))
    assert "2 passed" in run_tests(tmp_path, _URL.format(begin="postgresql://"), TASK_ENGINE_TEST_URL=server)
    with psycopg.connect(server) as connection:
        left = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'task_engine_test%'")
        assert left.fetchall() == []


def test_a_url_of_something_else_is_refused(tmp_path: Path) -> None:
    text = "def test_a(task_engine_url): ...\n"
    try:
        run_tests(tmp_path, text, TASK_ENGINE_TEST_URL="sqlite:///mine.db")
    except AssertionError as error:
        assert "TASK_ENGINE_TEST_URL has to begin with postgresql://" in str(error)
    else:
        raise AssertionError("it was taken")
