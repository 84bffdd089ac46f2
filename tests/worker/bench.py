"""A worker in the test's own process, with executors made of functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from engine.executors.base import TaskContext
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Graph, TaskSpec
from engine.model.json import JSON
from engine.model.outcomes import Outcome, Succeeded
from engine.model.records import Attempt, Task
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import submits, tasks
from engine.store.database import Database
from engine.worker.options import WorkerOptions
from engine.worker.service import Worker

QUICK = WorkerOptions(
    concurrency=4,
    lease_seconds=3.0,
    beat_seconds=0.5,
    sweep_seconds=0.3,
    poll_seconds=0.2,
    grace_seconds=10.0,
    capture_output=False,
)
RETRY = RetryPolicy(max_attempts=3, backoff=Backoff.FIXED, initial_ms=10, jitter=0.0)
Body = Callable[[TaskContext, Any], Awaitable[Any]]


class Function:
    """A kind whose body is a function."""

    category = "test"

    def __init__(self, kind: str, body: Body) -> None:
        self.kind = kind
        self._body = body

    def check(self, params: JSON) -> None: ...

    async def execute(self, context: TaskContext, params: JSON) -> Outcome:
        outcome: Outcome = await self._body(context, params)
        return outcome


async def _fine(context: TaskContext, params: Any) -> Outcome:
    return Succeeded(params)


@asynccontextmanager
async def working(database: Database, *bodies: Body, **options: Any) -> AsyncIterator[Worker]:
    """A started worker; each body is a kind of the function's name, and `fine` is always there."""
    functions = [Function(body.__name__, body) for body in bodies]
    registry = ExecutorRegistry.from_executors([Function("fine", _fine), *functions])  # type: ignore[list-item]
    async with Worker(database, registry, replace(QUICK, **options)) as worker:
        yield worker


async def submit(database: Database, *specs: TaskSpec) -> list[int]:
    """A run of these tasks; returns their ids."""
    accepted = await submits.submit(database, Graph(specs))
    return list(accepted.task_ids.values())


async def submit_one(database: Database, kind: str, params: JSON = None, **fields: Any) -> int:
    [task_id] = await submit(database, TaskSpec("one", kind, params, **fields))
    return task_id


async def ended(database: Database, task_id: int, seconds: float = 20.0) -> Task:
    """The task, once it is in a final state."""

    async def is_final() -> Task | None:
        task = await tasks.get(database, task_id)
        return task if task.state in ("succeeded", "failed", "skipped", "cancelled") else None

    task: Task = await until(is_final, seconds)
    return task


async def outcomes(database: Database, task_id: int) -> list[str]:
    return [attempt.outcome for attempt in await tasks.attempts(database, task_id)]


async def last(database: Database, task_id: int) -> Attempt:
    return (await tasks.attempts(database, task_id))[-1]


async def until(is_true: Callable[[], Any], seconds: float = 20.0) -> Any:
    """The first answer that is true; the question may be a coroutine."""
    deadline = time.monotonic() + seconds
    while True:
        answer = is_true()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not true after {seconds} s: {is_true}"
        await asyncio.sleep(0.02)
