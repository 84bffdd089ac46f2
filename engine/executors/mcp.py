"""The kind `mcp`: echoes its input, which is the contract's default behaviour (section 7)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

from engine.executors.base import ExecutorSettings, TaskContext
from engine.model.json import JSON
from engine.model.outcomes import Outcome, Succeeded
from engine.model.records import Lease


class McpExecutor:
    kind: ClassVar[str] = "mcp"
    category: ClassVar[str] = "mcp"

    def __init__(self, settings: ExecutorSettings) -> None: ...

    def check(self, params: JSON) -> None: ...

    async def execute(self, context: TaskContext, params: JSON) -> Outcome:
        # An echo takes no time that anyone could watch, so its three steps are stored in one write.
        await context.report([_step("task accepted"), _step("task started"), _step("task completed")])
        return Succeeded({"echo": params, "tool_name": tool_name(context.lease)})


def tool_name(lease: Lease) -> str:
    """The tool that the client named when it submitted the task; empty if it named none."""
    name = lease.client.get("tool_name") if isinstance(lease.client, dict) else None
    return name if isinstance(name, str) else ""


def _step(message: str) -> dict[str, str]:
    return {"timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"), "message": message}
