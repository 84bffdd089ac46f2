"""Values go in and come out as they are, or with a clear error. More of it is in docs/expressions.md."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ExpressionError, InvalidExpression
from engine.expressions import child
from engine.expressions.evaluator import MAX_CONTEXT_BYTES, Evaluator
from engine.model.json import JSON, MAX_INT, MIN_INT

pytestmark = pytest.mark.anyio

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


def answered(text: str, **params: JSON) -> dict[str, Any]:
    """What the process answers, found out without one."""
    reply: dict[str, Any] = json.loads(
        child.answer(json.dumps({"text": text, "context": {"params": params}}).encode())
    )
    return reply


@given(VALUES)
def test_every_json_value_comes_back_as_it_was(value: JSON) -> None:
    reply = answered("params.x", x=value)
    assert json.dumps(reply["value"], sort_keys=True) == json.dumps(value, sort_keys=True)
    assert answered("params.x == params.y", x=value, y=value) == {"value": True}


async def test_values_cross_the_process_unchanged(evaluator: Evaluator) -> None:
    value = [MIN_INT, MAX_INT, 0.1, 1.0, 1e300, None, True, "日本\n\u2028'\"", {"": [], "a b": {}}]
    result = await evaluator.evaluate("params.x", {"params": {"x": value}})
    assert json.dumps(result, sort_keys=True) == json.dumps(value, sort_keys=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('timestamp("2026-01-31T08:00:00.123456789Z")', "2026-01-31T08:00:00.123456Z"),
        ('timestamp("0001-01-01T00:00:00Z")', "0001-01-01T00:00:00Z"),
        ('timestamp("9999-12-31T23:59:59Z")', "9999-12-31T23:59:59Z"),
        ('[timestamp("2026-01-31T08:00:00Z") - timestamp("2026-01-30T08:00:00Z")]', ["86400s"]),
        ('duration("-1.5s")', "-1.5s"),
        ('{"a": [duration("1ms")]}', {"a": ["0.001s"]}),
        ('duration("0s")', "0s"),
    ],
)
def test_times_come_out_as_text(text: str, expected: JSON) -> None:
    assert answered(text) == {"value": expected}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2**63, "the result is not JSON: integer is outside 64 bits"),  # CEL has unsigned ones as well
        (-(2**63) - 1, "Integer value '-9223372036854775809' out of range"),
        (2**64, "Integer value '18446744073709551616' out of range"),
    ],
)
async def test_integers_beyond_64_bits_are_refused(evaluator: Evaluator, value: int, reason: str) -> None:
    assert reason in answered("params.x", x=value)["error"]
    with pytest.raises(ExpressionError):
        await evaluator.evaluate("params.x", {"params": {"x": value}})
    assert await evaluator.evaluate("params.y", {"params": {"x": value, "y": 1}}) == 1  # not looked at


def cycle() -> JSON:
    value: list[JSON] = []
    value.append(value)
    return value


def nested(depth: int) -> JSON:
    value: JSON = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value", [object(), "\ud800", cycle(), nested(100_000)], ids=["object", "surrogate", "cycle", "depth"]
)
async def test_what_is_not_json_never_reaches_the_process(evaluator: Evaluator, value: Any) -> None:
    with pytest.raises(ExpressionError, match="a value that it reads is not JSON"):
        await evaluator.evaluate("params.x", {"params": {"x": value}})


async def test_nan_which_no_database_stores_is_null(evaluator: Evaluator) -> None:
    assert await evaluator.evaluate("params.x", {"params": {"x": math.nan}}) is None


def test_results_may_be_as_deep_as_what_is_stored() -> None:
    assert answered("params.x", x=nested(64)) == {"value": nested(64)}
    assert answered("params.x", x=nested(65)) == {
        "error": "the result is not JSON: nesting is deeper than 64 levels"
    }


async def test_large_values_are_refused_before_they_are_sent(evaluator: Evaluator) -> None:
    context = {"params": {"large": "a" * MAX_CONTEXT_BYTES, "x": 1}}
    assert await evaluator.evaluate("params.x", context) == 1
    with pytest.raises(ExpressionError, match=f"it reads 8388.* bytes, the limit is {MAX_CONTEXT_BYTES}"):
        await evaluator.evaluate("params.large", context)


async def test_large_results_are_refused_where_they_arise(evaluator: Evaluator) -> None:
    context = {"params": {"large": "a" * child.MAX_RESULT_BYTES, "x": "b" * (child.MAX_RESULT_BYTES - 100)}}
    assert await evaluator.evaluate("params.x", context) == context["params"]["x"]
    with pytest.raises(ExpressionError) as raised:
        await evaluator.evaluate("params.large", context)
    assert str(raised.value) == f"the result has more than {child.MAX_RESULT_BYTES} bytes"
    with pytest.raises(ExpressionError) as raised:
        await evaluator.evaluate("params.l", {"params": {"l": [1] * (child.MAX_VALUES + 1)}})
    assert str(raised.value) == f"the result is not JSON: more than {child.MAX_VALUES} values"


async def test_messages_are_cut(evaluator: Evaluator) -> None:
    with pytest.raises(ExpressionError) as raised:
        await evaluator.evaluate("params[params.x]", {"params": {"x": "a" * 1_000_000}})
    assert len(str(raised.value)) <= 500


async def test_an_invalid_text_is_refused_when_it_runs_too(evaluator: Evaluator) -> None:
    with pytest.raises(InvalidExpression):
        await evaluator.evaluate("1 +", {})
    with pytest.raises(ExpressionError, match='No value with name "params"'):
        await evaluator.evaluate("params.x", {})


@pytest.mark.parametrize(
    ("value", "shown"), [(1, "1"), ("true", '"true"'), ([], "[]"), ("a" * 99, '"' + "a" * 59 + "…")]
)
async def test_a_condition_says_what_came_out(evaluator: Evaluator, value: JSON, shown: str) -> None:
    with pytest.raises(ExpressionError) as raised:
        await evaluator.condition("params.x", {"params": {"x": value}})
    assert str(raised.value) == f"a condition is true or false, this gave {shown}"
