"""`task-engine workflow`: versions, definitions as files, and workflows that are switched off."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from click.testing import Result

from engine.definitions import from_yaml
from tests.cli.process import Program
from tests.cli.test_workflow import ORDERS, error_of

Call = Callable[..., Result]
On = Callable[..., Any]
Start = Callable[..., Program]


def test_a_version_is_printed_as_a_file_that_an_upload_takes(call: Call, target: list[str], on: On) -> None:
    on("workflow", "upload", "-", text=ORDERS)
    on("workflow", "upload", "-", text=ORDERS.replace("nightly", "daily"))
    first = call("workflow", "show", "orders", "--version", "1", "--yaml", *target)
    assert (first.exit_code, first.stderr) == (0, "")
    assert from_yaml(first.stdout) == from_yaml(ORDERS)
    newest = call("workflow", "show", "orders", "--yaml", *target)
    assert from_yaml(newest.stdout).description == "daily order run"
    Path("orders.yaml").write_text(first.stdout)
    assert on("workflow", "upload", "orders.yaml")["version"] == 3
    assert on("workflow", "show", "orders")["description"] == "nightly order run"


def test_a_definition_that_is_not_there_is_said_alike(call: Call, target: list[str]) -> None:
    call("workflow", "upload", "-", *target, text=ORDERS)
    missing = call("workflow", "show", "orders", "--version", "2", "--yaml", *target)
    assert error_of(missing, 1) == "error: workflow not found: orders version 2\n"
    both = call("workflow", "show", "orders", "--yaml", "--json", *target)
    assert "give --yaml or --json, not both" in error_of(both, 2)


def test_versions_tell_when_each_was_saved(call: Call, target: list[str], on: On) -> None:
    saved = [on("workflow", "upload", "-", text=ORDERS) for _ in range(2)]
    listed = on("workflow", "versions", "orders")["items"]
    assert [item["changed_at"] for item in listed] == [item["changed_at"] for item in saved[::-1]]
    header = call("workflow", "versions", "orders", *target).stdout.splitlines()[0]
    assert header.split() == ["VERSION", "NAME", "TASKS", "SAVED", "DESCRIPTION"]


def test_a_disabled_workflow_is_not_executed(call: Call, target: list[str], on: On) -> None:
    workflow_id = on("workflow", "upload", "-", text=ORDERS)["id"]
    disabled = call("workflow", "disable", "orders", *target)
    assert (disabled.exit_code, disabled.stdout) == (0, f"✅ Workflow disabled: {workflow_id}\n")
    assert ["status", "DISABLED"] in [
        line.split() for line in call("workflow", "show", "orders", *target).stdout.splitlines()
    ]
    refused = call("workflow", "execute", "orders", *target)
    assert error_of(refused, 1) == "error: workflow 'orders' is disabled; enable it before executing it\n"
    assert on("workflow", "enable", "orders") == {"message": "workflow enabled", "id": workflow_id}
    assert call("workflow", "execute", "orders", *target).exit_code == 0


def test_both_ways_print_the_same(database_url: str, start: Start, call: Call) -> None:
    flags = ("--shared",) if database_url.startswith("sqlite") else ()
    url = start("server", "start", "--port", "0", "--db", database_url, *flags).event("server.started")["url"]
    ways = (("--server", url), ("--db", database_url))
    for way in ways:
        assert call("workflow", "upload", "-", *way, text=ORDERS).exit_code == 0

    def same(*arguments: str) -> str:
        first, second = (call(*arguments, *way) for way in ways)
        assert (first.exit_code, first.stdout) == (second.exit_code, second.stdout), first.output
        assert first.exit_code == 0
        return first.stdout

    assert json.loads(same("workflow", "versions", "orders", "--json"))["total"] == 2
    same("workflow", "versions", "orders", "--limit", "1", "--offset", "1")
    same("workflow", "show", "orders", "--version", "1", "--yaml")
    same("workflow", "disable", "orders", "--json")
    same("workflow", "enable", "orders", "--json")
