"""What functions return, made into JSON."""

from __future__ import annotations

import dataclasses
import enum
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from engine.errors import PermanentError
from engine.functions.results import to_json


class Colour(enum.IntEnum):
    RED = 3


class Text(str):
    """Some libraries return these."""


class Model(BaseModel):
    at: datetime


@dataclasses.dataclass
class Point:
    x: int
    inner: Any = None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({"a": (1, 2), 3: {4}}, {"a": [1, 2], "3": [4]}),
        (Point(1, Point(2)), {"x": 1, "inner": {"x": 2, "inner": None}}),
        (Model(at=datetime(2026, 1, 2, tzinfo=UTC)), {"at": "2026-01-02T00:00:00Z"}),
        (timedelta(minutes=1), "PT1M"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("/a/b"), "/a/b"),
        (Colour.RED, 3),
        (Text("t"), "t"),
        ({date(2026, 1, 2): 1, UUID(int=1): 2}, {"2026-01-02": 1, str(UUID(int=1)): 2}),
        ({Text("t"): {Colour.RED: 1, "red": 2}}, {"t": {"3": 1, "red": 2}}),
    ],
)
def test_values_become_json(value: Any, expected: Any) -> None:
    made = to_json(value)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), "the result cannot be made into JSON: object$"),
        ({"a": [1, {"b": object()}]}, r"JSON: object at a\.1\.b$"),
        (Point(1, {"f": print}), r"at inner\.f$"),
        (float("nan"), "not finite"),
        ({"n": 2**70}, "outside 64 bits"),
        ("\x00", "NUL"),
        (b"\xff", "invalid utf-8"),
        ({1: "a", "1": "b"}, "the same as text: 1, '1'$"),
        ([Point(1, {True: 1, "true": 2})], "the same as text: True, 'true'$"),
        ({"a": {None: 3}}, "object key None; keys must be text"),
        (({(1, 2): 4},), r"object key \(1, 2\); keys must be text"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(value: Any, message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        to_json(value)


def test_a_value_within_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(PermanentError, match="cannot be made into JSON"):
        to_json(value)
