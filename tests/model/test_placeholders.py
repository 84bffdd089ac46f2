"""Placeholders: what is one, what comes in its place, and what is said if nothing can."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ParamsError, UnresolvedReference
from engine.model import placeholders as module
from engine.model.placeholders import (
    BadPlaceholder,
    Pending,
    Reference,
    bind,
    complete,
    parse,
    references,
    resolve,
)
from tests.support.workflows import json_values, texts

PARAMS: dict[str, Any] = {
    **{"day": "monday", "n": 5, "x": 1.5, "yes": True, "none": None, "list": [1, "a"], "a.b-c": "dotted"},
    "object": {"k": [{"deep": 7}]},
}
RESULTS: dict[str, Any] = {
    "load": {"rows": [{"id": 1}, {"id": 2}], "count": 2, "a key": "v", 'q"': 1},
    "数据 提取": "whole",
    "list": [10, 20],
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # the whole text: the value as it is
        ("${day}", "monday"),
        ("${n}", 5),
        ("${x}", 1.5),
        ("${yes}", True),
        ("${none}", None),
        ("${list}", [1, "a"]),
        ("${object}", {"k": [{"deep": 7}]}),
        ("${ day }", "monday"),
        ("${a.b-c}", "dotted"),
        ("${{ params.object.k[0].deep }}", 7),
        ("${{params.list[1]}}", "a"),
        ("${{ tasks.load.result }}", RESULTS["load"]),
        ("${{ tasks.load.result.rows[1].id }}", 2),
        ('${{ tasks.load.result["a key"] }}', "v"),
        ("${{ tasks.load.result['a key'] }}", "v"),
        ('${{ tasks.load.result["q\\""] }}', 1),
        ('${{ tasks["数据 提取"].result }}', "whole"),
        ("${{ tasks.list.result[0] }}", 10),
        # within longer text: written out
        ("on ${day}, ${n} × ${x}", "on monday, 5 × 1.5"),
        ("${yes}${none}.", "true."),
        ("${list} ${object}", '[1,"a"] {"k":[{"deep":7}]}'),
        ("${day}: ${{ tasks.load.result.count }} rows", "monday: 2 rows"),
        (" ${n}", " 5"),
        # no placeholders
        ("$${day}", "${day}"),
        ("$${{ tasks.load.result }}", "${{ tasks.load.result }}"),
        ("$$${day}", "$${day}"),
        ("costs $5 ${", "costs $5 ${"),
        ("${DAY:today} ${#list} ${} ${1}", "${DAY:today} ${#list} ${} ${1}"),
        ("day", "day"),
        ("", ""),
    ],
)
def test_a_placeholder_and_its_value(text: str, value: Any) -> None:
    found = resolve(text, params=PARAMS, results=RESULTS)
    assert found == value and type(found) is type(value)


def test_texts_are_found_wherever_they_stand_and_keys_are_left_alone() -> None:
    value = {"${day}": ["${n}", {"deep": ["at ${day}", None, 1, True]}], "plain": 1.0}
    assert resolve(value, params=PARAMS, results={}) == {
        **{"${day}": [5, {"deep": ["at monday", None, 1, True]}], "plain": 1.0}
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${{ }}", "${{ }}: expected tasks.… or params.…"),
        ("${{ 1 + 1 }}", "${{ 1 + 1 }}: expected tasks.… or params.…"),
        ("a ${{ task.load.result }} b", "${{ task.load.result }}: expected tasks.… or params.…"),
        ("${{ params }}", "${{ params }}: expected params.<name>"),
        ("${{ params[0] }}", "${{ params[0] }}: expected params.<name>"),
        ("${{ tasks.load }}", "${{ tasks.load }}: expected tasks.<name>.result"),
        ("${{ tasks.load.rows }}", "${{ tasks.load.rows }}: expected tasks.<name>.result"),
        ("${{ tasks[0].result }}", "${{ tasks[0].result }}: expected tasks.<name>.result"),
        (
            "${{ tasks.load.result.a + 1 }}",
            "${{ tasks.load.result.a + 1 }}: expected a path such as "
            'tasks.load.result.rows[0]["a key"] and }}',
        ),
        (
            "${{ tasks.load.result",
            '${{ tasks.load.result: expected a path such as tasks.load.result.rows[0]["a key"] and }}',
        ),
        (
            "${{ tasks.load.result[-1] }}",
            '${{ tasks.load.result[-1] }}: expected a path such as tasks.load.result.rows[0]["a key"] and }}',
        ),
        ('${{ tasks["\\x"].result }}', '${{ tasks["\\x"].result }}: "\\x" is not a JSON string'),
    ],
)
def test_what_is_no_reference_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadPlaceholder) as caught:
        parse(text)
    assert str(caught.value) == message
    assert [(path, str(error)) for path, error in references({"a": [text]})] == [(("a", 0), message)]


def test_all_missing_parameters_are_named_once_with_their_first_place() -> None:
    value = {"a": "${x} ${y}", "b": ["${y}", "${day}", "${{ params.z.deep }}"]}
    with pytest.raises(ParamsError) as caught:
        resolve(value, params={"day": 1}, results={})
    assert str(caught.value) == "missing parameters: x (a), y (a), z (b[2])"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${{ tasks.lod.result }}", '${{ tasks.lod.result }}: the result of "lod" is not there'),
        (
            "${{ tasks.load.result.row }}",
            '${{ tasks.load.result.row }}: the result of "load" has no "row" (it has a key, count, q", rows)',
        ),
        (
            "${{ tasks.load.result.rows[2] }}",
            '${{ tasks.load.result.rows[2] }}: the result of "load" at rows has no [2] (it has 2 items)',
        ),
        (
            "${{ tasks.load.result.rows.id }}",
            '${{ tasks.load.result.rows.id }}: the result of "load" at rows is a list and has no "id"',
        ),
        (
            "${{ tasks.load.result[0] }}",
            '${{ tasks.load.result[0] }}: the result of "load" is an object and has no [0]',
        ),
        (
            "${{ tasks.load.result.count.x }}",
            '${{ tasks.load.result.count.x }}: the result of "load" at count is an integer and has no "x"',
        ),
    ],
)
def test_a_path_that_leads_nowhere_says_how_far_it_came(text: str, message: str) -> None:
    with pytest.raises(UnresolvedReference) as caught:
        resolve({"p": text}, params={}, results=RESULTS)
    assert str(caught.value) == f"p: {message}"


def test_all_unresolved_references_are_told() -> None:
    with pytest.raises(UnresolvedReference) as caught:
        resolve(["${{ tasks.a.result }}", "${{ tasks.b.result }}"], params={}, results={})
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == ["[0]", "[1]"]


def test_a_path_into_a_parameter_that_leads_nowhere() -> None:
    with pytest.raises(ParamsError) as caught:
        resolve({"p": "${{ params.n.x }}"}, params=PARAMS, results={})
    assert str(caught.value) == 'p: ${{ params.n.x }}: the parameter "n" is an integer and has no "x"'


# --- values bring nothing along


def test_a_value_is_never_looked_at_again() -> None:
    hostile = "${{ tasks.secret.result }} ${day}"
    secret = {"secret": "s3cr3t", "load": hostile}
    params = {"x": hostile, "day": "d"}
    for text in ("${x}", "a ${x} b"):
        bound = bind(text, params)
        assert bound.pending == []
        assert resolve(text, params=params, results=secret) == text.replace("${x}", hostile)
    assert resolve("${{ tasks.load.result }}", params=params, results=secret) == hostile
    # The parameter ends in a dollar sign, and the reference follows: together they must not be an escape.
    assert resolve("${x}${{ tasks.load.result }}", params={"x": "$"}, results={"load": 1}) == "$1"
    mixed = resolve("${x} ${{ tasks.load.result }}", params=params, results=secret)
    assert mixed == f"{hostile} {hostile}"


@given(json_values, texts)
def test_any_value_comes_as_it_is(value: Any, around: str) -> None:
    around = around.replace("$", "")
    assert resolve({"a": ["${x}"]}, params={"x": value}, results={}) == {"a": [value]}
    embedded = resolve(f"{around}${{x}}{around}.", params={"x": value}, results={})
    assert embedded == f"{around}{module.text_of(value)}{around}."


@given(st.text())
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parts = parse(text)
    except BadPlaceholder:
        assert "${{" in text
        return
    assert all(parts)
    if "${" not in text:
        assert parts == ((text,) if text else ())


@given(st.text("${}x. [0]\"'tasksreultpm", max_size=30))
def test_any_text_near_a_placeholder_is_parsed_or_refused(text: str) -> None:
    try:
        parse(text)
    except BadPlaceholder as error:
        assert str(error)


# --- precedence


def test_a_name_is_looked_for_in_the_parameters_and_then_beside_it() -> None:
    value = {"day": "friday", "n": 1, "table": "orders_${day}", "other": "${n}"}
    assert resolve(value, params={"day": "monday"}, results={})["table"] == "orders_monday"
    assert resolve(value, params={}, results={})["table"] == "orders_friday"
    assert resolve(value, params={}, results={})["other"] == 1
    with pytest.raises(ParamsError, match="missing parameters: region"):
        resolve({"region": "${region}"}, params={}, results={})


# --- what waits for results


def test_what_waits_for_results_can_be_stored_and_completed_later() -> None:
    value = {"sql": "from ${{ tasks.load.result.count }} on ${day}", "rows": "${{ tasks.load.result.rows }}"}
    bound = bind(value, PARAMS)
    assert bound.value == value  # shown as written until then
    stored = json.loads(json.dumps([pending.to_json() for pending in bound.pending]))
    pending = [Pending.from_json(document) for document in stored]
    completed = complete(bound.value, pending, RESULTS)
    assert completed == {"sql": "from 2 on monday", "rows": RESULTS["load"]["rows"]}
    assert bound.value == value


def test_references_are_listed_with_their_paths() -> None:
    found = list(references({"a": ["${x} ${{ tasks.b.result.c[0] }}"], "d": "${{ params.p }}"}))
    assert found == [
        (("a", 0), Reference("${x}", None, ("x",))),
        (("a", 0), Reference("${{ tasks.b.result.c[0] }}", "b", ("c", 0))),
        (("d",), Reference("${{ params.p }}", None, ("p",), is_declared=True)),
    ]


# --- bounds


def test_a_short_text_cannot_become_an_endless_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_INSERTED", 10_000)
    params = {"x": "x" * 1_000, "o": {"k": "x" * 1_000}}
    resolve(["${x}"] * 10, params=params, results={})
    for value in (["${x}"] * 11, "${x}" * 11, ["${o}"] * 10):
        with pytest.raises(ParamsError, match="placeholders add more than 10000 characters"):
            resolve(value, params=params, results={})
    with pytest.raises(ParamsError, match="placeholders add more than"):
        resolve(["${{ tasks.a.result }}"] * 11, params={}, results={"a": "x" * 1_000})


def test_nesting_has_a_bound() -> None:
    deep: Any = "${x}"
    for _ in range(70):
        deep = [deep]
    with pytest.raises(BadPlaceholder, match="deeper than 64"):
        bind(deep, {"x": 1})
    with pytest.raises(BadPlaceholder, match="deeper than 64"):
        list(references(deep))
    with pytest.raises(BadPlaceholder, match="expected a path"):
        parse("${{ params" + ".a" * 100 + " }}")


@pytest.mark.parametrize("unit", ["${", "$${", "${{", "${{ tasks.", "${{ tasks.a.result[", "${x", "${ "])
def test_parsing_takes_time_in_proportion(unit: str) -> None:
    text = unit * 20_000 + " " * 20_000
    try:
        parse(text)
    except BadPlaceholder as error:
        assert len(str(error)) < 300
