"""The registry, and the example plug-in that enters through it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, UnknownKind
from engine.executors import registry as registry_module
from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.noop import NoopExecutor
from engine.executors.os import UnknownToolExecutor
from engine.executors.registry import GROUP, MAX_UNKNOWN, ExecutorRegistry
from engine.executors.sleep import SleepExecutor
from engine.model.json import JSON
from engine.model.outcomes import Outcome, Succeeded

REPOSITORY = Path(__file__).parents[2]
OURS = ["cli-skills", "dns", "file", "http", "mcp", "noop", "os", "shell", "sleep", "tcp"]


def test_all_our_executors_are_installed_as_entry_points(settings: ExecutorSettings) -> None:
    registry = ExecutorRegistry.from_entry_points(settings)
    assert set(OURS) <= set(registry.kinds())
    assert registry.kinds() == sorted(registry.kinds())
    assert [executor.kind for executor in registry] == registry.kinds()
    categories = {kind: registry.get(kind).category for kind in OURS}
    assert categories == {**dict.fromkeys(OURS, "os"), "cli-skills": "cli-skills", "mcp": "mcp"}


def test_every_declared_entry_point_names_its_kind() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"][GROUP]
    assert declared.pop("function")  # which has something to perform only where settings name functions
    assert declared.pop("realtime")  # likewise
    assert declared.pop("plugin")  # made with the plug-ins that are installed
    found = {name: EntryPoint(name, value, GROUP).load().kind for name, value in declared.items()}
    assert found == {kind: kind for kind in OURS}


def test_functions_are_performed_where_settings_name_some(settings: ExecutorSettings) -> None:
    assert "function" not in ExecutorRegistry.from_entry_points(settings)
    named = replace(settings, functions=("tests.executors.functions",))
    assert "function" in ExecutorRegistry.from_entry_points(named)
    with pytest.raises(ConfigError, match="there is no module nowhere on the import path"):
        ExecutorRegistry.from_entry_points(replace(settings, functions=("nowhere",)))


def test_an_unknown_kind_is_refused_with_what_there_is(settings: ExecutorSettings) -> None:
    registry = ExecutorRegistry.from_executors([SleepExecutor(settings), NoopExecutor(settings)])
    assert "noop" in registry
    assert "nope" not in registry
    assert len(registry) == 2
    with pytest.raises(UnknownKind, match=r"unknown task type: nope \(available: noop, sleep\)"):
        registry.get("nope")


def test_a_kind_provided_twice_is_refused(settings: ExecutorSettings) -> None:
    with pytest.raises(ConfigError, match='kind "noop" is provided twice'):
        ExecutorRegistry.from_executors([NoopExecutor(settings), NoopExecutor(settings)])


@pytest.mark.parametrize(
    ("params", "unknown"),
    [
        ({"seconds": 5}, {"seconds": 'unknown parameter "seconds" (known: duration_ms)'}),
        (
            {"duration_ms": 1, "duration": 1},
            {"duration": 'unknown parameter "duration"; did you mean "duration_ms"?'},
        ),
        ({"a\nb": None}, {"a\nb": 'unknown parameter "a b" (known: duration_ms)'}),
        ({"duration_ms": 1}, {}),
        ({}, {}),
        (None, {}),
        ([], {}),
    ],
)
def test_parameters_that_a_kind_does_not_know_are_named(
    settings: ExecutorSettings, params: Any, unknown: dict[str, str]
) -> None:
    assert ExecutorRegistry.from_executors([SleepExecutor(settings)]).unknown("sleep", params) == unknown


def test_of_very_many_unknown_parameters_the_first_are_named(settings: ExecutorSettings) -> None:
    registry = ExecutorRegistry.from_executors([SleepExecutor(settings)])
    params = {f"name-{number}": number for number in range(1_000)}
    assert list(registry.unknown("sleep", params)) == list(params)[:MAX_UNKNOWN]


class Blocking(NoopExecutor):
    def execute(self, context: TaskContext, params: JSON) -> Outcome:  # type: ignore[override]
        return Succeeded(None)


def test_an_executor_that_would_block_is_refused(settings: ExecutorSettings) -> None:
    registry = ExecutorRegistry()
    with pytest.raises(
        ConfigError, match=r"Blocking\.execute must be `async def`.*by our package 1\.0"
    ) as told:
        registry.add(Blocking(settings), "our package 1.0")  # type: ignore[arg-type]
    assert "asyncio.to_thread" in str(told.value)
    assert "noop" not in registry


class Foreign(UnknownToolExecutor):
    """As a third party may write it: with the methods that it must have, and no more."""

    kind = "foreign"


class Open(Foreign):
    def schema(self) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": {}}, "additionalProperties": True}


@pytest.mark.parametrize("executor", [Foreign, Open])
def test_an_executor_that_does_not_say_what_it_knows_takes_anything(
    settings: ExecutorSettings, executor: type[Foreign]
) -> None:
    registry = ExecutorRegistry.from_executors([executor(settings)])
    assert registry.schema("foreign")["type"] == "object"
    assert registry.unknown("foreign", {"anything": 1}) == {}


def install(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, str]) -> None:
    points = [EntryPoint(name, value, GROUP) for name, value in found]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points)


def test_no_entry_points_at_all_is_a_broken_installation(
    settings: ExecutorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    with pytest.raises(ConfigError, match="no executors are installed"):
        ExecutorRegistry.from_entry_points(settings)


def test_a_plugin_cannot_replace_ours_silently(
    settings: ExecutorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        monkeypatch,
        ("noop", "engine.executors.noop:NoopExecutor"),
        ("other", "engine.executors.noop:NoopExecutor"),
    )
    with pytest.raises(ConfigError, match='kind "noop" is provided twice'):
        ExecutorRegistry.from_entry_points(settings)


def raises(settings: ExecutorSettings) -> None:
    raise RuntimeError("no license")


def leaves(settings: ExecutorSettings) -> None:
    sys.exit("no license")


def shapeless(settings: ExecutorSettings) -> object:
    return object()


class Nameless(NoopExecutor):
    kind = " "


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("engine.executors.noop:Missing", "AttributeError"),
        (f"{__name__}:raises", "RuntimeError: no license"),
        (f"{__name__}:leaves", "SystemExit: no license"),
        (f"{__name__}:shapeless", "object.kind must be a text"),
        (f"{__name__}:Nameless", "Nameless.kind must be a text that is not blank"),
    ],
)
def test_a_plugin_that_does_not_load_is_named_with_the_cause(
    settings: ExecutorSettings, monkeypatch: pytest.MonkeyPatch, value: str, cause: str
) -> None:
    install(monkeypatch, ("broken", value))
    with pytest.raises(ConfigError) as caught:
        ExecutorRegistry.from_entry_points(settings)
    assert 'executor "broken" of' in str(caught.value)
    assert value in str(caught.value)
    assert cause in str(caught.value)


# --- the example under examples/plugin

USE = """
import asyncio, json, sys
from pathlib import Path
from engine.executors.base import ExecutorSettings
from engine.executors.registry import ExecutorRegistry
from tests.executors.factories import make_context

async def main():
    registry = ExecutorRegistry.from_entry_points(ExecutorSettings())
    outcome = await registry.get("wordcount").execute(make_context(), {"text": "to be or not to be"})
    return {"kinds": registry.kinds(), "result": outcome.result}

try:
    print(json.dumps(asyncio.run(main())))
except Exception as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A folder with the example as pip would leave it there: its package and its metadata."""
    source = REPOSITORY / "examples" / "plugin"
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    shutil.copytree(source / "wordcount", tmp_path / "wordcount")
    metadata = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"][GROUP]
    lines = [f"[{GROUP}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def use(folder: Path) -> Any:
    ended = subprocess.run(
        [sys.executable, "-c", USE],
        env={"PYTHONPATH": f"{folder}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(ended.stdout)


def test_the_example_plugin_runs(plugin: Path) -> None:
    answer = use(plugin)
    assert answer["result"] == {"words": 6, "different": 4}
    assert set(answer["kinds"]) >= {*OURS, "wordcount"}


BreakIt = Callable[[Path], object]


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda folder: (folder / "wordcount/__init__.py").write_text("1/0"), "ZeroDivisionError"),
        (
            lambda folder: (folder / "wordcount/executor.py").write_text(
                (folder / "wordcount/executor.py").read_text().replace('"wordcount"', '"noop"')
            ),
            'executor kind "noop" is provided twice: by task-engine',
        ),
    ],
    ids=["does not import", "takes our kind"],
)
def test_a_broken_plugin_is_named_with_its_package(plugin: Path, break_it: BreakIt, expected: str) -> None:
    break_it(plugin)
    answer = use(plugin)
    assert answer["error"].startswith("ConfigError: ")
    assert expected in answer["error"]
    assert "task-engine-wordcount 0.1.0" in answer["error"]
