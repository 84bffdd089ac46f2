"""Contexts made by hand, and ports that remember."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.executors.base import Interruption
from engine.functions.context import Context, Facts, SyncContext
from engine.functions.ports import InMemorySteps, Ports
from engine.model.graph import TaskSpec
from engine.model.json import JSON

FACTS = Facts(
    task_id=11, task_name="load", run_id=7, attempt=2, idempotency_key="task-11", workflow_id="wf-1"
)


@dataclass
class World:
    """What functions have asked for and said."""

    steps: InMemorySteps = field(default_factory=InMemorySteps)
    reports: list[JSON] = field(default_factory=list)
    spawned: list[TaskSpec] = field(default_factory=list)
    pieces: list[tuple[str, str]] = field(default_factory=list)

    async def spawn(self, tasks: Sequence[TaskSpec], /) -> list[int]:
        self.spawned += tasks
        return list(range(100, 100 + len(tasks)))

    async def report(self, document: JSON, /) -> None:
        self.reports.append(document)

    def write(self, stream: str, text: str) -> None:
        self.pieces.append((stream, text))

    def logged(self, stream: str = "log") -> str:
        return "".join(text for name, text in self.pieces if name == stream)

    @property
    def ports(self) -> Ports:
        return Ports(spawn=self.spawn, report=self.report, steps=self.steps, workflow_id="wf-1")

    def context(self, params: Mapping[str, JSON] | None = None, **given: Any) -> Context:
        given = {"stopping": Interruption(), "ask": self.ports.ask, "write": self.write, **given}
        return Context(FACTS, params or {}, **given)


def make_context(params: Mapping[str, JSON] | None = None, **given: Any) -> SyncContext:
    """For what asks nothing of the engine."""

    def ask(port: str, *arguments: Any) -> Any:
        raise AssertionError(f"{port} is not expected to be asked for")

    given = {"stopping": threading.Event(), "ask": ask, "write": World().write, **given}
    return SyncContext(FACTS, params or {}, **given)
