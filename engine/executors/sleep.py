"""Waits, and holds its slot while it does. To start later, use the task's delay instead."""

from __future__ import annotations

import asyncio

from pydantic import Field

from engine.executors.base import TaskContext
from engine.executors.params import Params, ParamsExecutor
from engine.model.outcomes import Outcome, Succeeded

MAX_SLEEP_MS = 600_000


class SleepParams(Params):
    duration_ms: int = Field(
        0,
        description="how long, in milliseconds",
        json_schema_extra={"minimum": 0, "maximum": MAX_SLEEP_MS},
    )

    def require(self) -> None:
        if self.duration_ms < 0:
            raise ValueError("duration_ms must be non-negative")
        if self.duration_ms > MAX_SLEEP_MS:
            raise ValueError(f"duration_ms exceeds max of {MAX_SLEEP_MS} ms")


class SleepExecutor(ParamsExecutor[SleepParams]):
    kind = "sleep"
    params_type = SleepParams

    async def perform(self, context: TaskContext, params: SleepParams) -> Outcome:
        await asyncio.sleep(params.duration_ms / 1000)
        return Succeeded({"slept_ms": params.duration_ms})
