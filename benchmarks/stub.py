"""The engine's own program, but submits answer without the database: `python -m benchmarks.stub server …`."""

from __future__ import annotations

from typing import Any

from engine.cli import main
from engine.model.graph import Graph
from engine.operations import submits
from engine.operations.submits import Accepted


async def submit(database: Any, graph: Graph, **options: Any) -> Accepted:
    submits.check(graph, options.get("known_kinds"))
    return Accepted(1, {task.name: number for number, task in enumerate(graph.tasks, 1)})


if __name__ == "__main__":
    submits.submit = submit
    main()
