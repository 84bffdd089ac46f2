"""Submits of one task every so often, and how long after each its body began."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import Figures, percentiles
from engine import Engine
from engine.model.graph import Graph, TaskSpec

WARM_UPS = 10
INTERVAL_SECONDS = 0.02


@dataclass(slots=True)
class Submits:
    """When each was submitted, and when the submit returned: seconds on the monotonic clock, by task name."""

    calls: dict[str, float] = field(default_factory=dict)
    returns: dict[str, float] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)  # when a poller saw the success

    async def make(self, engine: Engine, count: int, *, interval: float = INTERVAL_SECONDS) -> None:
        """Submit `count` tasks of kind `stamp`, and wait until the last of them has ended."""
        for number in range(WARM_UPS):  # the first finds workers that are still starting
            await engine.wait(await self._submit(engine, f"l{number}"), 60)
        due = time.monotonic()
        runs = []
        for number in range(WARM_UPS, WARM_UPS + count):
            due += interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            runs.append(await self._submit(engine, f"l{number}"))
        for run_id in runs:
            await engine.wait(run_id, 60)

    async def make_and_poll(self, engine: Engine, count: int, *, poll_seconds: float = 0.002) -> None:
        """One after the other, each looked at until it has succeeded."""
        for number in range(WARM_UPS + count):
            name = f"l{number}"
            run_id = await self._submit(engine, name)
            while (await engine.get(run_id)).finished_at is None:
                await asyncio.sleep(poll_seconds)
            self.seen[name] = time.monotonic()

    async def _submit(self, engine: Engine, name: str) -> int:
        graph = Graph((TaskSpec(name, "stamp"),))
        self.calls[name] = time.monotonic()
        accepted = await engine.submit(graph)
        self.returns[name] = time.monotonic()
        return accepted.run_id

    def waits(self, began: Mapping[str, float]) -> dict[str, list[float]]:
        """Milliseconds from the call and from its return to the first line of each body."""
        names = list(self.calls)[WARM_UPS:]
        return {
            "from_call_ms": [(began[name] - self.calls[name]) * 1000 for name in names],
            "from_return_ms": [(began[name] - self.returns[name]) * 1000 for name in names],
        }

    def until_seen(self) -> list[float]:
        return [(self.seen[name] - self.calls[name]) * 1000 for name in list(self.calls)[WARM_UPS:]]


def figures(waits: Mapping[str, Any]) -> Figures:
    """Of `Submits.waits`, and of what a peer's script answers."""
    return {
        **percentiles(waits["from_call_ms"], "from call "),
        **percentiles(waits["from_return_ms"], "from return "),
    }
