"""Which plug-in has which name, and when it is initialised; how the executor calls it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from engine.errors import ConfigError, InvalidInput, PermanentError, RetryAfter
from engine.executors.base import ExecutorSettings
from engine.executors.plugin import PluginExecutor
from engine.model.outcomes import Failed, Released, Succeeded
from engine.plugins import registry as registry_module
from engine.plugins.base import PluginData
from engine.plugins.registry import GROUP, PluginRegistry
from tests.executors.factories import Recorder, eventually, make_context
from tests.plugins.calls import EVENT, call

pytestmark = pytest.mark.anyio


class Notes:
    """Notes what it was called with; it blocks, so it runs in a thread."""

    name = "notes"

    def __init__(self) -> None:
        self.params: list[dict[str, Any]] = []
        self.seen: list[PluginData] = []

    def init(self, params: Mapping[str, Any]) -> None:
        self.params = [*self.params, dict(params)]

    def execute(self, data: PluginData) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        self.seen.append(data)
        return {"params": self.params}


class Waits(Notes):
    name = "waits"

    async def execute(self, data: PluginData) -> Any:  # type: ignore[override]
        await asyncio.sleep(0)
        return data.task_name


def test_ours_are_there() -> None:
    assert PluginRegistry.installed().names() == ["email", "sms_alert", "webhook"]


async def test_an_object_without_params_is_called_as_it_is(settings: ExecutorSettings) -> None:
    notes = Notes()
    outcome = await call(settings, "notes", {}, notes)
    assert isinstance(outcome, Succeeded) and outcome.result == {"params": []}
    [data] = notes.seen
    assert (data.event, data.task_name, data.workflow_id) == ("task.failed", "load", "wf-1")
    assert (data.data["workflow_name"], data.delivery) == ("nightly", "task-77")


async def test_a_copy_of_it_is_initialised_with_params(settings: ExecutorSettings) -> None:
    notes = Notes()
    outcome = await call(settings, "notes", {"a": 1}, notes)
    assert isinstance(outcome, Succeeded) and outcome.result == {"params": [{"a": 1}]}
    assert notes.params == []


async def test_a_class_is_initialised_once_for_each_params(settings: ExecutorSettings) -> None:
    executor = PluginExecutor(settings, PluginRegistry([Notes]))
    results = []
    for params in ({"a": 1}, {"a": 2}, {"a": 1}, {}):
        task = {"plugin": "notes", "params": params, "data": EVENT}
        outcome = await executor.execute(make_context(), task)
        assert isinstance(outcome, Succeeded)
        results.append(outcome.result["params"])
    assert results == [[{"a": 1}], [{"a": 2}], [{"a": 1}], [{}]]
    await executor.close()


async def test_an_async_plug_in_runs_on_the_loop(settings: ExecutorSettings) -> None:
    outcome = await call(settings, "waits", {}, Waits())
    assert isinstance(outcome, Succeeded) and outcome.result == "load"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no"), {"is_permanent": False, "delay_ms": None}),
        (PermanentError("never"), {"is_permanent": True}),
        (RetryAfter(3), {"is_permanent": False, "delay_ms": 3_000}),
    ],
)
async def test_what_it_raises_says_how_to_go_on(
    settings: ExecutorSettings, error: Exception, expected: dict[str, Any]
) -> None:
    class Raises(Notes):
        def execute(self, data: PluginData) -> Any:
            raise error

    outcome = await call(settings, "notes", {}, Raises())
    assert isinstance(outcome, Failed)
    assert {name: getattr(outcome, name) for name in expected} == expected


async def test_params_that_it_refuses_fail_for_good(settings: ExecutorSettings) -> None:
    class Picky(Notes):
        def init(self, params: Mapping[str, Any]) -> None:
            raise ValueError("channel is required")

    outcome = await call(settings, "notes", {"a": 1}, Picky())
    assert isinstance(outcome, Failed) and outcome.is_permanent
    assert outcome.message == "channel is required"


async def test_an_unknown_one_may_be_known_to_another_worker(settings: ExecutorSettings) -> None:
    outcome = await call(settings, "webhok", {})
    assert isinstance(outcome, Released)
    assert outcome.code == "unknown_plugin"
    assert outcome.reason == 'unknown plug-in "webhok"; did you mean "webhook"?'


async def test_an_unknown_one_that_nobody_has_bound_fails(settings: ExecutorSettings) -> None:
    outcome = await call(settings, "webhok", {}, binding=None)
    assert isinstance(outcome, Failed) and not outcome.is_permanent
    assert outcome.code == "unknown_plugin"


async def test_an_event_that_is_none_fails_for_good(settings: ExecutorSettings) -> None:
    outcome = await call(settings, "notes", {}, Notes(), event="task.exploded")
    assert isinstance(outcome, Failed) and outcome.is_permanent
    assert "is not one of workflow.started" in outcome.message


async def test_a_thread_that_goes_on_keeps_its_slot(settings: ExecutorSettings) -> None:
    begun, go_on = threading.Event(), threading.Event()

    class Stuck(Notes):
        def execute(self, data: PluginData) -> Any:
            begun.set()
            go_on.wait(20)

    executor = PluginExecutor(replace(settings, threads=1), PluginRegistry([Stuck()]))
    task = {"plugin": "notes", "data": EVENT}
    handle = asyncio.create_task(executor.execute(make_context(Recorder()), task))
    await eventually(begun.is_set)
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert executor.overdue == 1
    go_on.set()
    await eventually(lambda: not executor.overdue)
    await executor.close()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ConfigError, match=r'"notes" is provided twice: by .*Notes and by .*Notes'):
        PluginRegistry([Notes(), Notes])


@pytest.mark.parametrize(
    ("plugin", "message"), [(object(), "has no name"), (type("X", (), {"name": "x"}), "has no method init")]
)
def test_what_is_no_plug_in_is_refused(plugin: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PluginRegistry([plugin])


def test_packages_bring_theirs_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("notes", f"{__name__}:Notes", GROUP)]
    monkeypatch.setattr(registry_module, "entry_points", lambda group: points)
    assert "notes" in PluginRegistry.installed()
    points[0] = EntryPoint("gone", f"{__name__}:Gone", GROUP)
    with pytest.raises(ConfigError, match=r'"gone" of an unknown package cannot be loaded'):
        PluginRegistry.installed()


def test_a_check_says_what_is_unknown() -> None:
    with pytest.raises(InvalidInput, match='unknown plug-in "emial"; did you mean "email"'):
        PluginRegistry.installed().check("emial", {})
