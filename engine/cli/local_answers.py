"""Answers of operations on a database, waited for and written as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec

from engine.cli.workflow_verbs import Data

T = TypeVar("T")


def now(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def data_of(answer: msgspec.Struct) -> Data:
    """The data object that the API would answer with."""
    data: Data = msgspec.to_builtins(answer)
    return data
