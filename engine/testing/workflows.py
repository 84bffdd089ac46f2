"""A workflow run to its end in memory, in milliseconds however long it sleeps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from engine.executors.base import Executor
from engine.model.graph import Graph
from engine.model.json import JSON
from engine.sdk.workflows import Definition
from engine.testing.clock import START
from engine.testing.ended import Ended
from engine.testing.harness import PATIENCE_SECONDS, Harness, Signals


async def run_workflow(
    workflow: Definition | Graph,
    params: Mapping[str, JSON] | None = None,
    *,
    functions: Iterable[Any] = (),
    services: Mapping[str, Any] | None = None,
    executors: Iterable[Executor] | None = None,
    signals: Signals | None = None,
    until: timedelta | datetime | None = None,
    start: datetime = START,
    timeout: float = PATIENCE_SECONDS,
) -> Ended:
    """Run `workflow` on an engine of its own: see `Harness`, and `Harness.ended` for what it raises.

    `functions` perform its tasks and find `services`. `signals` are sent at the start, and wait for whoever
    wants them. `until` ends it early: after so much time of the clock, which begins at `start`.
    """
    async with Harness(functions=functions, services=services, executors=executors, start=start) as engine:
        return await engine.run(workflow, params, signals=signals or (), until=until, timeout=timeout)
