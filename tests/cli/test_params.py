"""What the command line refuses before anything is done: values that no database stores, and odd times."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Call = Callable[..., Result]
On = Callable[..., Any]

ORDERS = """
workflows:
  definitions:
    - workflow_id: orders
      params: {s: x}
      tasks: [{task_id: load, kind: noop, params: {message: "${s}"}}]
"""
SURROGATE = '"\\ud800"'
UNSTORABLE = {
    "1e999": "number is not finite",
    "[1, -1e999]": "number is not finite",
    SURROGATE: "text contains a lone surrogate",
    '{"\\ud800": 1}': "text contains a lone surrogate",
    '"a\\u0000"': "text contains the NUL character",
    str(2**63): "integer is outside 64 bits",
}


@pytest.fixture
def orders(on: On) -> str:
    Path("orders.yaml").write_text(ORDERS)
    workflow_id: str = on("workflow", "upload", "orders.yaml")["id"]
    return workflow_id


def refused(result: Result) -> str:
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr


def started(on: On) -> int:
    total: int = on("instance", "list")["total"]
    return total


def test_values_that_cannot_be_stored_are_refused_by_name(
    call: Call, on: On, orders: str, target: list[str]
) -> None:
    first = on("workflow", "execute", orders)["instance_id"]
    for command in (["workflow", "execute", orders], ["instance", "rerun", first]):
        for value, problem in UNSTORABLE.items():
            error = refused(call(*command, "-p", f"s={value}", *target))
            assert error.splitlines()[0] == f"error: Invalid value for '--params' / '-p': s: {problem}"
    for command in (["instance", "signal", first, "go", "--value"], ["instance", "publish", first, "go"]):
        option = [] if "--value" in command else ["--payload"]
        error = refused(call(*command, *option, SURROGATE, *target))
        assert error.splitlines()[0].endswith(": text contains a lone surrogate")
    assert started(on) == 1


def test_a_file_of_parameters_is_refused_with_the_place(
    call: Call, on: On, orders: str, target: list[str]
) -> None:
    for text, place in (
        ('{"a": 1,\n "s": "\\ud800"}', "params.json:2:7: parameter 's': text contains a lone surrogate"),
        ('{"s": ["\\u0000"]}', "params.json:1:7: parameter 's': text contains the NUL character"),
        ('{"\\ud800": 1}', "params.json:1:12: parameter '\\\\ud800': text contains a lone surrogate"),
    ):
        Path("params.json").write_text(text)
        error = refused(call("workflow", "execute", orders, "--params-file", "params.json", *target))
        assert error == f"error: {place}\n"
    assert started(on) == 0


def test_text_that_looks_like_a_number_is_still_text(on: On, orders: str) -> None:
    for text, value in (("NaN", "NaN"), ("1e", "1e"), ("1.50", 1.5)):
        first = on("workflow", "execute", orders, "-p", f"s={text}")["instance_id"]
        assert on("instance", "status", first)["params"] == {"s": value}


@pytest.mark.parametrize("time", ["-1", "-1s", "nan", "inf", "1e30", "99999999d"])
def test_a_time_that_nobody_can_wait_starts_nothing(
    call: Call, on: On, orders: str, target: list[str], time: str
) -> None:
    error = refused(call("workflow", "execute", orders, "--wait", "--timeout", time, *target))
    assert "Invalid value for '--timeout'" in error
    assert started(on) == 0


@pytest.mark.parametrize("time", ["0", "-1d", "0.5", "99999999d", "nan"])
def test_a_token_is_made_for_a_time_that_comes(call: Call, on: On, target: list[str], time: str) -> None:
    create = ["token", "create", "--name", "x", "--scope", "read", "--expires"]
    assert "Invalid value for '--expires'" in refused(call(*create, time, *target))
    assert on("token", "list") == []
    assert call(*create, "36500d", *target).exit_code == 0
