"""The kind `os`: what is left when a submitted `type: os` names no tool that exists."""

from __future__ import annotations

from typing import ClassVar

from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.mcp import tool_name
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome


class UnknownToolExecutor:
    """Fails every attempt: the contract accepts such tasks at submit and refuses them at execution."""

    kind: ClassVar[str] = "os"
    category: ClassVar[str] = "os"

    def __init__(self, settings: ExecutorSettings) -> None: ...

    def check(self, params: JSON) -> None: ...

    async def execute(self, context: TaskContext, params: JSON) -> Outcome:
        name = tool_name(context.lease).strip() or "os"
        return Failed(f'unknown os tool "{name}"')
