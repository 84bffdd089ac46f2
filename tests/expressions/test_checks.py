"""What is known of an expression before it runs: what it reads, and whether it is allowed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import InvalidExpression, InvalidInput
from engine.expressions.checks import check, reads_of, references
from engine.expressions.child import Failed, evaluate
from engine.expressions.evaluator import pick
from engine.expressions.syntax import MAX_CHARACTERS, MAX_NODES, parse
from engine.model.json import JSON
from engine.model.workflow_references import Reads

NAMES = ("params", "tasks")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("params.a == 1", set()),
        ("tasks.load.result.rows > 0", {"load"}),
        ("tasks['fetch-eu'].x + tasks.`fetch-us`.x", {"fetch-eu", "fetch-us"}),
        ("has(tasks.a.result) && !has(tasks.b)", {"a", "b"}),
        ("params.x ? tasks.a.x : tasks.b.x", {"a", "b"}),
        ("tasks.a.list.map(x, x + tasks.b.y).exists(z, z in tasks.c.list)", {"a", "b", "c"}),
        ("{'k': tasks.a, tasks.b: [tasks.c[0].x[tasks.d.i]]}", {"a", "b", "c", "d"}),
        ("[{'x': 1}].map(tasks, tasks.x)", set()),  # a variable of that name
        ("[tasks.a].map(tasks, tasks.x + 1)", {"a"}),
        ("'tasks.a' == params.x // tasks.b", set()),
        ("params.tasks.a", set()),
        ("tasks\n  .\n  a", {"a"}),
    ],
)
def test_references(text: str, expected: set[str]) -> None:
    check(text, names=NAMES)
    assert references(text) == expected


@pytest.mark.parametrize(
    "text", ["tasks", "size(tasks)", "tasks[params.x]", "tasks[0]", "tasks.exists(t, true)", "'a' in tasks"]
)
def test_tasks_are_read_by_a_fixed_name(text: str) -> None:
    with pytest.raises(InvalidExpression, match="tasks are read by name"):
        references(text)


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("other.x", 1, 1, "unknown name: other (known: params, tasks)"),
        ("params.x > 0 &&\n  日", 2, 3, "Syntax error: token recognition error at: '日'"),
        ("'日本' == other", 1, 9, "unknown name: other (known: params, tasks)"),
        ("params.x.map(y, y + z)", 1, 21, "unknown name: z (known: params, tasks)"),
        ("[1].map(params, .params)", 1, 18, "unknown name: .params (known: params, tasks)"),
        ("zeta + alpha", 1, 1, "unknown name: zeta (known: params, tasks)"),
        ("params.x\n + nosuch(1)", 2, 10, "undeclared reference to 'nosuch'"),
        ("size(1)", 1, 5, "found no matching overload for 'size' applied to '(int)'"),
        ("params.x\0", 1, 9, "text contains NUL or half a character"),
        ("'\ud800'", 1, 2, "text contains NUL or half a character"),
    ],
)
def test_refusal_says_where_and_why(text: str, line: int, column: int, reason: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        check(text, names=NAMES)
    error = raised.value
    assert isinstance(error, InvalidExpression)
    assert (error.line, error.column, error.reason) == (line, column, reason)
    assert str(error) == f"line {line}, column {column}: {reason}"


def test_only_the_first_of_many_errors_is_told() -> None:
    with pytest.raises(InvalidExpression) as raised:
        check("@#" * 1_500, names=NAMES)  # the library's own report has 300 000 characters
    assert str(raised.value) == "line 1, column 1: Syntax error: token recognition error at: '@'"


@pytest.mark.parametrize("text", ["1 + 1", "'true'", "params.list.map(x, x > 1)", "null", "{'a': true}"])
def test_what_cannot_be_true_or_false_is_no_condition(text: str) -> None:
    check(text, names=NAMES)
    with pytest.raises(InvalidExpression, match="a condition is true or false, this is of type"):
        check(text, names=NAMES, is_condition=True)


@pytest.mark.parametrize("text", ["params.x", "params.x > 1", "params.x ? params.y : true", "has(params.x)"])
def test_what_may_be_true_or_false_is_a_condition(text: str) -> None:
    check(text, names=NAMES, is_condition=True)


# --- size


DEEP = "nested or chained more than 32 levels deep"


@pytest.mark.parametrize(
    "text",
    ["(" * 33 + "1" + ")" * 33, "[" * 3_000, "1" + "+1" * 40, "params" + ".x" * 40, "true?1:" * 200 + "1"],
    ids=lambda text: text[:10],
)
def test_deep_nesting_and_long_chains_are_refused(text: str) -> None:
    with pytest.raises(InvalidExpression) as raised:
        check(text, names=NAMES)
    assert str(raised.value) == DEEP


def test_long_conditions_are_fine() -> None:
    check(" && ".join(["params.a > 1"] * 200), names=NAMES, is_condition=True)


def test_a_text_over_the_limit_is_refused() -> None:
    check("'" + "a" * (MAX_CHARACTERS - 2) + "'", names=NAMES)
    with pytest.raises(InvalidExpression) as raised:
        check("'" + "a" * (MAX_CHARACTERS - 1) + "'", names=NAMES)
    assert str(raised.value) == f"{MAX_CHARACTERS + 1} characters, the limit is {MAX_CHARACTERS}"


def test_too_many_parts_are_refused() -> None:
    check("[" + "1," * (MAX_NODES - 2) + "1]", names=NAMES)
    for text in ("[" + "1," * (MAX_NODES - 1) + "1]", "[" + "params.a.b.c," * 250 + "1]"):
        with pytest.raises(InvalidExpression) as raised:
            check(text, names=NAMES)
        assert str(raised.value) == f"more than {MAX_NODES} parts"


def test_types_that_double_are_not_worked_out() -> None:
    """The type checker would need gigabytes for this one."""
    text = "[1]" + ".map(a, {a: a})" * 24
    check(text, names=NAMES, is_condition=True)
    assert parse(text).macros == 24


# --- what is sent


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("params.a == 1", {"params": {"a": 1}}),
        ("params['a'] == params.d.x", {"params": {"a": 1, "d": {"x": 2}}}),
        ("params.d.x + size(params.d)", {"params": {"d": {"x": 2, "y": 3}}}),
        ("has(params.gone) || has(params.d.gone.z)", {"params": {"d": {}}}),
        ("params.l[0].x", {"params": {"l": [{"x": 4, "y": 5}]}}),
        ("params[tasks.t.key]", {"params": "all", "tasks": {"t": {"key": "a"}}}),
        ("params.a.x", {"params": {"a": 1}}),
        ("other.x", {}),
        ("1 + 1", {}),
    ],
)
def test_only_what_is_referred_to_is_picked(text: str, expected: JSON) -> None:
    params = {"a": 1, "d": {"x": 2, "y": 3}, "l": [{"x": 4, "y": 5}]}
    context = {"params": params, "tasks": {"t": {"key": "a", "result": 6}, "u": {"key": "b"}}}
    if expected.get("params") == "all":
        expected["params"] = params
    assert pick(context, parse(text).paths) == expected


def test_a_condition_of_a_workflow_reads_tasks_and_is_true_or_false() -> None:
    assert reads_of("tasks.load.result.rows > params.least") == Reads({"load"}, {"least"})
    for wrong in ("env.HOME == 'x'", "1 + 1", "tasks.load.result >"):
        with pytest.raises(InvalidExpression):
            reads_of(wrong)


def test_a_placeholder_in_a_condition_is_told_how_to_write_it() -> None:
    with pytest.raises(InvalidExpression) as caught:
        reads_of("1 == 1 && ${p} == 1")
    assert str(caught.value) == (
        "line 1, column 11: Syntax error: token recognition error at: '$'; "
        "here names stand without ${…}, as in params.day and tasks.load.result"
    )
    with pytest.raises(InvalidExpression, match=r"'\$'$"):
        check("${p} == 1", names=("event",))


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("params.p == 1", {"p"}),
        ('size(params["a b"].c) > params.p.q[0]', {"a b", "p"}),
        ("!params.p && (tasks.a.result && params.q)", {"p", "q"}),
        ("params.p ? params.q : params.r", {"p"}),
        ("params.p.all(x, x > params.q)", {"p"}),
        ('[1, params.p] == [] && {"k": params.q} == {}', {"p", "q"}),
        ("has(params.p.q)", {"p"}),
        ("tasks.a.result[params.p]", {"p"}),
        # asked for, or not needed for the whole to be true
        ("has(params.p)", set()),
        ("has(params.p) && params.p == 1", set()),
        ('"p" in params && params.p == 1', set()),
        ("params.p == 1 || tasks.a.result", set()),
        ("!(params.p && params.q)", set()),
        ("(params.p && params.q) == false", set()),
        ("[].all(x, params.p)", set()),
        ("[{'p': true}].all(params, params.p)", set()),
    ],
)
def test_parameters_without_which_a_condition_never_holds(text: str, needed: set[str]) -> None:
    assert reads_of(text).params == needed


_values = st.sampled_from(
    ["params.p", "params.q", "true", "false", "has(params.p)", "has(params.q.x)", '"q" in params']
)
_conditions = st.recursive(
    _values,
    lambda inner: (
        st.builds("({} && {})".format, inner, inner)
        | st.builds("({} || {})".format, inner, inner)
        | st.builds("(!{})".format, inner)
        | st.builds("({} == {})".format, inner, inner)
        | st.builds("({} ? {} : {})".format, inner, inner, inner)
        | st.builds("[{}].all(x, {})".format, inner, inner)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(_conditions, st.sampled_from([{}, {"p": True}, {"p": False}, {"q": True}, {"q": {"x": True}}]))
def test_without_what_it_needs_a_condition_is_never_true(text: str, params: dict[str, JSON]) -> None:
    if parse(text).needed_params - params.keys():
        with suppress(Failed):
            assert evaluate(text, {"params": params}) is not True
