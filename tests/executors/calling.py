"""What the tests of functions have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.executors.function import FunctionExecutor
from engine.functions.decorator import task
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Succeeded
from tests.executors import functions
from tests.executors.factories import eventually, make_context
from tests.executors.worlds import World

ROOT = Path(__file__).resolve().parents[2]
PROCESS_TASKS = [thing for thing in vars(functions).values() if isinstance(thing, type(functions.square))]

Make = Callable[..., FunctionExecutor]


@task
def multiply(a: int, b: int = 2) -> int:
    return a * b


def asking(name: str, **params: Any) -> JSON:
    return {"function": name, "params": params}


async def call(executor: FunctionExecutor, world: World, name: str, **params: Any) -> Outcome:
    return await executor.execute(make_context(world), asking(name, **params))


def result(outcome: Outcome) -> Any:
    assert isinstance(outcome, Succeeded), outcome
    return outcome.result


def failure(outcome: Outcome) -> Failed:
    assert isinstance(outcome, Failed), outcome
    return outcome


async def noted(path: Path) -> list[int]:
    """The numbers that a function wrote into `path`."""
    await eventually(lambda: path.exists() and path.read_text().endswith("\n"))
    return [int(word) for word in path.read_text().split()]
