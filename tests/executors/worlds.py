"""What functions have asked for and said."""

from __future__ import annotations

from collections.abc import Sequence

from engine.executors.base import TaskContext
from engine.functions.ports import InMemorySteps, Ports
from engine.model.graph import TaskSpec
from engine.model.json import JSON
from tests.executors.factories import Recorder


class World(Recorder):
    """Provides what functions ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = InMemorySteps()
        self.spawned: list[TaskSpec] = []
        self.results: dict[str, JSON] = {"extract": {"rows": 3}}
        self.looks = 0

    async def upstream(self, names: Sequence[str] | None = None, /) -> dict[str, JSON]:
        self.looks += 1
        return self.results

    async def spawn(self, tasks: Sequence[TaskSpec]) -> list[int]:
        self.spawned += tasks
        return [5] * len(tasks)

    def ports(self, context: TaskContext) -> Ports:
        return Ports(self.spawn, self.report, self.upstream, self.steps, "wf-9")
