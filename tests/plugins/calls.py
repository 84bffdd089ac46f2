"""Events, and plug-ins called with them as a worker does it."""

from __future__ import annotations

from typing import Any

from engine.executors.base import ExecutorSettings
from engine.executors.plugin import PluginExecutor, network
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.plugins.registry import PluginRegistry
from tests.executors.factories import make_context

EVENT: dict[str, Any] = {
    "event": "task.failed",
    "number": 6,
    "at": "2026-11-21T19:07:22.561265Z",
    "workflow": {
        "id": "wf-1",
        "name": "nightly",
        "version": 3,
        "instance_id": "17",
        "status": "Running",
        "total_tasks": 4,
        "completed": 2,
        "failed": 1,
    },
    "task": {"id": "41", "name": "load", "kind": "http", "attempt": 2, "status": "Failed", "result": None},
    "error": {"code": "external_failure", "message": "no route to host"},
}


async def call(
    settings: ExecutorSettings,
    plugin: str,
    params: dict[str, Any],
    *plugins: Any,
    binding: str | None = "b",
    **event: Any,
) -> Outcome:
    """What comes of one attempt; `plugins` are there besides the installed ones."""
    registry = PluginRegistry.installed(network(settings))
    for each in plugins:
        registry.add(each)
    executor = PluginExecutor(settings, registry)
    try:
        return await executor.execute(
            make_context(task_id=77, kind="plugin", client=binding and {"binding": binding}),
            {"plugin": plugin, "params": params, "data": {**EVENT, **event}},
        )
    finally:
        await executor.close()


async def told(settings: ExecutorSettings, plugin: str, params: dict[str, Any], **event: Any) -> Any:
    outcome = await call(settings, plugin, params, **event)
    assert isinstance(outcome, Succeeded), outcome
    return outcome.result


async def fails(settings: ExecutorSettings, plugin: str, params: dict[str, Any], **event: Any) -> Failed:
    outcome = await call(settings, plugin, params, **event)
    assert isinstance(outcome, Failed), outcome
    return outcome
