"""Functions of a streaming task, for worker processes of their own: numbers, and a ledger of those taken."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from engine.functions.decorator import task
from tests.chaos.ledger import LEDGER


@task
async def numbers(most: int, offset: int | None = None) -> AsyncIterator[int]:
    """1, 2, 3 … `most`, and then silence."""
    for number in range((offset or 0) + 1, most + 1):
        yield number
    await asyncio.Event().wait()


@task
async def take(data: list[int], batch: int) -> int:
    """Writes down which numbers it got, with one write: lines of many processes never mix."""
    await asyncio.sleep(0.02)
    descriptor = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{batch} {' '.join(map(str, data))}\n".encode())
    finally:
        os.close(descriptor)
    return len(data)
