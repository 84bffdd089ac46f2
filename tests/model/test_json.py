from __future__ import annotations

import enum
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.model.json import Unstorable, check_storable, is_storable, storable_text


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = [1]
    value += [value, value]
    return value


def heap() -> list[Any]:
    """A few hundred lists that are ten billion values."""
    value: list[Any] = [0] * 10
    for _ in range(9):
        value = [value] * 10
    return value


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("a\x00b", "NUL"),
        ({"k\x00": 1}, "NUL"),
        ("\ud83d", "surrogate"),
        ({"\udfff": 1}, "surrogate"),
        (float("nan"), "not finite"),
        (1e400, "not finite"),
        ([-float("inf")], "not finite"),
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        (10**400, "64 bits"),
        (nested(65), "deeper than 64"),
        (nested(10_000), "deeper than 64"),
        (circle(), "deeper than 64"),
        ({1: 2}, "keys must be text"),
        ({None: 2}, "keys must be text"),
        (b"bytes", "bytes is not a JSON type"),
        ({1, 2}, "set is not a JSON type"),
        (object(), "object is not a JSON type"),
        (Decimal(1), "Decimal is not"),
        (datetime.now(), "datetime is not"),
        (Colour.RED, "Colour is not"),
        (1j, "complex is not"),
    ],
)
def test_refused_with_the_reason(value: Any, why: str) -> None:
    with pytest.raises(Unstorable, match=why):
        check_storable({"in": [value]} if why != "deeper than 64" else value)
    assert not is_storable(value)


def test_the_work_is_bounded() -> None:
    with pytest.raises(Unstorable, match="more than 1000 values"):
        check_storable(heap(), max_values=1_000)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner))


@settings(max_examples=50, deadline=None)
@given(values)
def test_what_passes_comes_back_unchanged(value: Any) -> None:
    if is_storable(value):
        assert msgspec.json.decode(msgspec.json.encode(value)) == value


def test_the_limits_themselves_pass() -> None:
    check_storable([2**63 - 1, -(2**63), 1.7976931348623157e308, 5e-324, "\U0010ffff", "", {}, (1, 2)])
    check_storable(nested(64))


@given(st.text(st.characters()))
def test_any_text_can_be_made_storable(text: str) -> None:
    check_storable(storable_text(text))


def test_storable_text_is_left_alone() -> None:
    assert storable_text("plain – 🙂\n") == "plain – 🙂\n"
    assert storable_text("a\x00b\ud800") == "a\\x00b\\ud800"
