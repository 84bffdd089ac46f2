"""What a plug-in is, and what it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.model.json import JSON
from engine.model.plugins import PluginEvent as PluginEvent


@dataclass(frozen=True, slots=True)
class PluginData:
    """One event. `delivery` is the same for each try to tell of it: pass it on, so that others see repeats.

    `data` has `workflow_name`, `version`, `total_tasks`, `completed`, `failed` and the event's `number` in
    its instance; of a task's event also `kind`, `attempt`, `result` and `error_code`.
    """

    event: PluginEvent
    workflow_id: str
    instance_id: str
    task_id: str | None
    task_name: str | None
    status: str
    error: str | None
    at: str  # RFC 3339
    delivery: str
    data: Mapping[str, JSON] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any], delivery: str) -> PluginData:
        """From what `engine.model.plugins.told` made, or whoever submits such a task. Raises `ValueError`."""
        try:
            event = PluginEvent(document.get("event", ""))
        except ValueError:
            raise ValueError(
                f"data.event: {document.get('event')!r:.80} is not one of {', '.join(PluginEvent)}"
            ) from None
        workflow, task = _part(document, "workflow"), _part(document, "task")
        error = _part(document, "error")
        about = task if event.is_of_task else workflow
        data: dict[str, JSON] = {
            "workflow_name": workflow.get("name"),
            "version": workflow.get("version"),
            "total_tasks": workflow.get("total_tasks"),
            "completed": workflow.get("completed"),
            "failed": workflow.get("failed"),
            "number": document.get("number"),
        }
        if event.is_of_task:
            data |= {name: task.get(name) for name in ("kind", "attempt", "result")}
            data["error_code"] = error.get("code") or None
        return cls(
            event=event,
            workflow_id=str(workflow.get("id") or ""),
            instance_id=str(workflow.get("instance_id") or ""),
            task_id=_text(task.get("id")),
            task_name=_text(task.get("name")),
            status=str(about.get("status") or ""),
            error=_text(error.get("message")),
            at=str(document.get("at") or ""),
            delivery=delivery,
            data=data,
        )

    def to_json(self) -> dict[str, JSON]:
        return {
            "event": str(self.event),
            "workflow_id": self.workflow_id,
            "instance_id": self.instance_id,
            "task_id": self.task_id,
            "task_name": self.task_name,
            "status": self.status,
            "error": self.error,
            "at": self.at,
            "delivery": self.delivery,
            "data": dict(self.data),
        }


def _part(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = document.get(name) or {}
    if not isinstance(part, Mapping):
        raise ValueError(f"data.{name}: expected an object, got {type(part).__name__}")
    return part


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


class Plugin(Protocol):
    """Called at events. `execute` may be `async def`, which must not block; a plain `def` runs in a thread.

    What it returns is kept as JSON. If it raises, it is called again as the task's retry policy says;
    `engine.errors.RetryAfter` says when, `PermanentError` never. It changes nothing about the workflow.
    A plug-in may also have `check(params)`, which raises `ValueError` for params that can never work.
    """

    name: str

    def init(self, params: Mapping[str, JSON], /) -> None:
        """Called once with the params of a binding, before the first `execute`. Raises `ValueError`."""
        ...

    def execute(self, data: PluginData, /) -> Any: ...
