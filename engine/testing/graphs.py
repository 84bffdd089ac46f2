"""A graph run to its end in memory, in the caller's event loop."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import NotFound
from engine.executors.base import Executor
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Graph
from engine.model.json import JSON
from engine.model.records import Run, Task
from engine.sdk.embedded import Engine
from engine.worker.options import WorkerOptions


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended, with its tasks by name."""

    run: Run
    tasks: dict[str, Task]

    def result(self, name: str) -> JSON:
        """What the last attempt of a task returned. Raises `NotFound` if it never ran."""
        task = self.tasks.get(name)
        if task is None or task.last is None:
            raise NotFound(f"no result of task {name!r}: it never ran (tasks: {', '.join(self.tasks)})")
        return task.last.result


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
        tasks = await engine.tasks(run.id, limit=len(graph.tasks))
        return Ended(run, {task.name: task for task in tasks})
