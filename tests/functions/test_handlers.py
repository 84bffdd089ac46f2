"""Ready-made handlers, called as callbacks call them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import InvalidArguments, NotFound
from engine.functions.handlers import HANDLERS, aggregate_sub_tasks, notify_on_failure, save_result
from engine.functions.loading import load_functions
from engine.functions.perform import perform
from engine.model.graph import TaskSpec
from engine.model.outcomes import Succeeded
from tests.functions.bench import World, make_context

SUCCESS = {"_task_name": "load", "_status": "SUCCESS", "result": {"rows": 3}, "_workflow_instance_id": "7"}
FAILURE = {
    "_task_name": "load",
    "_task_id": "41",
    "_status": "FAILED",
    "_error_message": "no route to host",
    "_workflow_id": "wf-1",
    "_workflow_instance_id": "7",
}


def logged(name: str, params: dict[str, Any]) -> str:
    world = World()
    outcome = perform(HANDLERS.get(f"task_engine.{name}"), make_context(params, write=world.write))
    assert isinstance(outcome, Succeeded), outcome
    return world.logged()


def test_they_are_loaded_as_any_module() -> None:
    assert load_functions(["engine.functions.handlers"]).names() == HANDLERS.names()
    assert all(name.startswith("task_engine.") for name in HANDLERS.names())


def test_a_success_is_logged() -> None:
    assert "task load succeeded: {'rows': 3}" in logged("log_success", SUCCESS)


def test_a_failure_is_logged() -> None:
    assert "task load: FAILED: no route to host" in logged("log_error", FAILURE)


class Repository:
    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def save(self, name: str, result: Any) -> None:
        self.kept[name] = result


def test_a_result_is_handed_to_a_service() -> None:
    repository = Repository()
    ctx = make_context({**SUCCESS, "repository_key": "db"}, services={"db": repository})
    assert save_result.function.call(ctx) == {"saved": "7/load"}
    assert repository.kept == {"7/load": {"rows": 3}}
    with pytest.raises(NotFound, match="no service 'db'"):
        save_result.function.call(make_context({**SUCCESS, "repository_key": "db"}))


@pytest.mark.parametrize(
    ("threshold", "is_reached"), [(None, False), (50, True), ("66.6", True), (67, False)]
)
def test_sub_tasks_are_counted(threshold: Any, is_reached: bool) -> None:
    entries = [
        {"task_id": str(number), "task_name": f"t{number}", "status": status}
        for number, status in enumerate(("success", "failed", "success"))
    ]
    params = {**SUCCESS, "result": {"subtask_results": entries}, "success_rate_threshold": threshold}
    counted = aggregate_sub_tasks.function.call(make_context(params))
    assert (counted["total"], counted["succeeded"], counted["failed"]) == (3, 2, ["t1"])
    assert counted["is_reached"] is is_reached


def test_each_channel_is_called_by_a_task_of_its_own() -> None:
    added: list[TaskSpec] = []

    def ask(port: str, tasks: list[TaskSpec]) -> list[int]:
        assert port == "spawn"
        added.extend(tasks)
        return [1] * len(tasks)

    channels = [{"plugin": "webhook", "params": {"url": "http://h"}}, {"plugin": "mine"}]
    ctx = make_context({**FAILURE, "notification_channels": channels}, ask=ask)
    assert notify_on_failure.function.call(ctx) == {"channels": ["webhook", "mine"]}
    assert {task.kind for task in added} == {"plugin"}
    assert [task.params["plugin"] for task in added] == ["webhook", "mine"]
    data = added[0].params["data"]
    assert (data["event"], data["task"]["name"]) == ("task.failed", "load")
    assert data["error"]["message"] == "no route to host"


@pytest.mark.parametrize("channels", [None, "webhook", [1], [{"params": {}}], [{"plugin": "x", "params": 1}]])
def test_channels_that_are_none_are_refused(channels: Any) -> None:
    with pytest.raises(InvalidArguments, match="notification_channels is a list"):
        notify_on_failure.function.call(make_context({**FAILURE, "notification_channels": channels}))
