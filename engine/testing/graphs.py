"""A graph run to its end in memory, in the caller's event loop and in real time."""

from __future__ import annotations

from collections.abc import Iterable

from engine.executors.base import Executor
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Graph
from engine.sdk.embedded import Engine
from engine.testing.ended import Ended, ended
from engine.worker.options import WorkerOptions


async def run_graph(
    graph: Graph, executors: Iterable[Executor] | None = None, *, timeout: float = 30.0
) -> Ended:
    """Run `graph` with `executors` (None: those that are installed) on a database in memory.

    Raises `TimeoutError` if it has not ended after `timeout` seconds.
    """
    registry = None if executors is None else ExecutorRegistry.from_executors(executors)
    options = WorkerOptions(poll_seconds=0.05, grace_seconds=0.0)
    async with Engine("sqlite://", registry=registry, options=options) as engine:
        accepted = await engine.submit(graph)
        run = await engine.wait(accepted.run_id, timeout)
        return await ended(engine._database, run)
