"""Functions of streaming tasks, for worker processes of their own: numbers, and what they took."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from engine.functions.decorator import task
from tests.chaos.ledger import append


@task
async def numbers(most: int, offset: int | None = None) -> AsyncIterator[int]:
    """1, 2, 3 … `most`, and then silence."""
    for number in range((offset or 0) + 1, most + 1):
        yield number
    await asyncio.Event().wait()


@task
async def take(data: list[int], batch: int) -> int:
    """Writes down which numbers it got."""
    await asyncio.sleep(0.02)
    append(f"{batch} {' '.join(map(str, data))}")
    return len(data)


@task
async def note(data: list[Any], sequence: int, feed: str) -> None:
    """Writes down what it got from which feed, and the number of the first in the stream."""
    await asyncio.sleep(0.02)
    append(json.dumps([feed, sequence, data]))
