"""`task-engine plugin`: the same on a server and on a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

Call = Callable[..., Result]
BIND = ("plugin", "bind", "webhook", "task.failed")
URL = ("--params", "url=http://h/")


def test_a_binding_is_made_listed_and_taken_back(
    on: Callable[..., Any], call: Call, target: list[str]
) -> None:
    made = on(*BIND, *URL, "--condition", "task.attempt > 1", "--id", "mine")
    assert (made["id"], made["params"], made["workflow_id"]) == ("mine", {"url": "http://h/"}, None)
    [listed] = on("plugin", "list")
    assert listed == made
    shown = call("plugin", "list", *target).stdout.splitlines()
    assert shown[0].split()[:3] == ["ID", "PLUGIN", "EVENT"]
    assert shown[1].split()[:4] == ["mine", "webhook", "task.failed", "all"]
    assert on("plugin", "unbind", "mine") == {"unbound": ["mine"]}
    assert on("plugin", "list") == []
    again = call("plugin", "unbind", "mine", *target)
    assert (again.exit_code, again.stderr) == (1, "error: binding not found: mine\n")


def test_people_are_told_what_was_bound(call: Call, target: list[str]) -> None:
    result = call(*BIND, *URL, "--disabled", *target)
    assert result.stdout == "webhook:task.failed: webhook is called at task.failed of every workflow\n"
    assert "disabled" in call("plugin", "list", *target).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("plugin", "bind", "webhok", "task.failed"), 2, 'unknown plug-in "webhok"'),
        (BIND, 2, "url is required"),
        ((*BIND, *URL, "--condition", "1 +"), 2, "condition"),
        ((*BIND, *URL, "--workflow", "nowhere"), 1, "workflow not found: nowhere"),
    ],
)
def test_what_cannot_be_bound_is_refused(
    call: Call, target: list[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    result = call(*arguments, *target)
    assert result.exit_code == code, result.output
    assert message in result.stderr


def test_an_event_that_is_none_is_wrong_usage(call: Call) -> None:
    assert call("plugin", "bind", "webhook", "task.exploded").exit_code == 2
