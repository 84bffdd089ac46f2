"""An evaluator that the tests of a module share, and what can be known about its process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import suppress

import psutil
import pytest

from engine.expressions.evaluator import Evaluator


@pytest.fixture(scope="module")
async def evaluator(anyio_backend: str) -> AsyncIterator[Evaluator]:
    async with Evaluator(timeout_seconds=10) as evaluator:  # the machine may be busy
        yield evaluator


def processes(parent: int | None = None) -> list[psutil.Process]:
    """Those that evaluate for `parent`, or for us."""
    found = []
    for child in psutil.Process(parent or os.getpid()).children():
        with suppress(psutil.Error):  # it died meanwhile
            if "engine.expressions.child" in child.cmdline():
                found.append(child)
    return found
