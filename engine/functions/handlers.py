"""Ready-made handlers for callbacks of workflows (contract section 5.3). Loaded as any module of functions.

A callback gets the task's own parameters and `_task_name`, `_status`, `result` or `error`, which they read.
What a handler returns is kept with its own task; it changes nothing about the run that it is told of.
"""

from __future__ import annotations

from typing import Any

from engine.errors import InvalidArguments
from engine.functions.context import BaseContext, SyncContext
from engine.functions.decorator import task
from engine.functions.registry import FunctionRegistry
from engine.functions.subtasks import sub_task_results
from engine.model.graph import MAX_NAME, TaskSpec
from engine.model.plugins import KIND, RETRY, TIMEOUT_MS, PluginEvent

_SHOWN = 2_000  # characters of a result in a log
_THRESHOLD = 80.0  # per cent


@task(name="task_engine.log_success")
def log_success(ctx: SyncContext) -> None:
    """Writes to the log that the task succeeded, and with what."""
    ctx.logger.info("task %s succeeded: %s", _name(ctx), str(ctx.get_param("result"))[:_SHOWN])


@task(name="task_engine.log_error")
def log_error(ctx: SyncContext) -> None:
    """Writes to the log why the task failed."""
    ctx.logger.error("task %s: %s: %s", _name(ctx), ctx.get_param("_status"), _error(ctx))


@task(name="task_engine.save_result", required=["repository_key"])
def save_result(ctx: SyncContext) -> dict[str, Any]:
    """Hands the result to the service `repository_key` by `save(name, result)`; `save_as` is another name.

    It may come more than once, so saving has to replace what was saved before.
    """
    key = ctx.get_param_string("repository_key")
    name = ctx.get_param_string("save_as") or f"{ctx.get_param('_workflow_instance_id')}/{_name(ctx)}"
    ctx.get_dependency(key).save(name, ctx.get_param("result"))
    return {"saved": name}


@task(name="task_engine.aggregate_sub_tasks")
def aggregate_sub_tasks(ctx: SyncContext) -> dict[str, Any]:
    """Counts what became of the task's sub-tasks; `success_rate_threshold` is in per cent (80)."""
    threshold = ctx.get_param_float("success_rate_threshold", _THRESHOLD)
    found = sub_task_results([ctx.get_param("result")])
    succeeded = sum(each.has_succeeded for each in found)
    rate = 100.0 if not found else 100.0 * succeeded / len(found)
    is_reached = rate >= threshold
    if not is_reached:
        ctx.logger.warning("task %s: %.1f %% of its sub-tasks succeeded", _name(ctx), rate)
    return {
        "total": len(found),
        "succeeded": succeeded,
        "failed": [each.task_name for each in found if not each.has_succeeded],
        "success_rate": rate,
        "is_reached": is_reached,
    }


@task(name="task_engine.notify_on_failure")
def notify_on_failure(ctx: SyncContext) -> dict[str, Any]:
    """Calls a plug-in for each of `notification_channels`: `{"plugin": name, "params": {…}}`.

    Each call is a task of its own, which is tried again by itself.
    """
    channels = ctx.get_param("notification_channels")
    if not isinstance(channels, list) or not all(map(_is_channel, channels)):
        raise InvalidArguments(
            'notification_channels is a list of objects such as {"plugin": "webhook", "params": {"url": …}}'
        )
    calls = [
        TaskSpec(
            f"{number} {channel['plugin']}"[:MAX_NAME],
            KIND,
            {"plugin": channel["plugin"], "params": channel.get("params") or {}, "data": _told(ctx)},
            timeout_ms=TIMEOUT_MS,
            retry=RETRY,
        )
        for number, channel in enumerate(channels, 1)
    ]
    ctx.add_sub_tasks(calls)
    return {"channels": [channel["plugin"] for channel in channels]}


def _is_channel(channel: Any) -> bool:
    return (
        isinstance(channel, dict)
        and isinstance(channel.get("plugin"), str)
        and isinstance(channel.get("params"), dict | None)
    )


def _told(ctx: BaseContext) -> dict[str, Any]:
    """As `engine.model.plugins.told`, so far as a callback knows."""
    is_timeout = ctx.get_param("_status") == "TIMEOUT"
    return {
        "event": str(PluginEvent.TASK_TIMEOUT if is_timeout else PluginEvent.TASK_FAILED),
        "workflow": {
            "id": ctx.get_param("_workflow_id"),
            "instance_id": ctx.get_param("_workflow_instance_id"),
        },
        "task": {
            "id": ctx.get_param("_task_id"),
            "name": ctx.get_param("_task_name"),
            "status": "TimeoutFailed" if is_timeout else "Failed",
        },
        "error": {"code": "timeout" if is_timeout else "", "message": _error(ctx)},
    }


def _name(ctx: BaseContext) -> str:
    return ctx.get_param_string("_task_name")


def _error(ctx: BaseContext) -> str:
    return ctx.get_param_string("_error_message")


HANDLERS = FunctionRegistry([log_success, log_error, save_result, aggregate_sub_tasks, notify_on_failure])
