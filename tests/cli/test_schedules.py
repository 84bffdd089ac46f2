"""`task-engine schedule` and `function`: the same on a server and on a database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from engine.operations import functions
from engine.store.database import Database
from tests.cli.process import Program
from tests.cli.test_workflow import ORDERS, error_of, other
from tests.factories import do, session

Call = Callable[..., Result]
On = Callable[..., Any]
Start = Callable[..., Program]

ID = r"sch-[0-9a-f]{12}"
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
CREATE = ("schedule", "create", "orders", "--cron", "0 30 8 * * MON-FRI", "--name")


@pytest.fixture
def weekdays(on: On) -> Any:
    """A schedule of a workflow."""
    on("workflow", "upload", "-", text=ORDERS)
    return on(*CREATE, "weekdays", "--zone", "Europe/Berlin", "-p", "day=3", "--overlap", "skip")


def test_a_new_schedule_is_told_with_a_tick_and_its_next_time(call: Call, target: list[str]) -> None:
    call("workflow", "upload", "-", *target, text=ORDERS)
    made = call(*CREATE, "weekdays", *target)
    assert re.fullmatch(rf"✅ Schedule created: {ID} \(next {TIME}\)\n", made.stdout), made.output


def test_a_schedule_has_what_was_asked_for(on: On, weekdays: Any) -> None:
    expected = {
        **{"name": "weekdays", "zone": "Europe/Berlin", "params": {"day": 3}, "overlap": "skip"},
        **{"catch_up": "last", "catch_up_limit": 100, "is_enabled": True},
    }
    assert expected.items() <= weekdays.items()
    Path("day.yaml").write_text("day: 5\n")
    more = ("--catch-up", "all", "--catch-up-limit", "7", "--params-file", "day.yaml")
    other_ = on(*CREATE, "other", *more)
    assert (other_["catch_up"], other_["catch_up_limit"], other_["params"]) == ("all", 7, {"day": 5})
    assert other_["zone"] == "UTC"


def test_schedules_are_listed_by_name(call: Call, target: list[str], on: On, weekdays: Any) -> None:
    header, row = call("schedule", "list", *target).stdout.splitlines()
    assert header.split() == ["ID", "NAME", "WORKFLOW_ID", "CRON", "ZONE", "STATE", "NEXT"]
    next_at = datetime.fromisoformat(weekdays["next_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    assert row.split() == [
        *(weekdays["id"], "weekdays", weekdays["workflow_id"]),
        *("0", "30", "8", "*", "*", "MON-FRI", "Europe/Berlin", "enabled", *next_at.split()),
    ]
    on(*CREATE, "again")
    on("schedule", "pause", "weekdays")
    page = call("schedule", "list", "--limit", "1", *target)
    assert page.stdout.splitlines()[1].split()[1] == "again"
    assert page.stderr == "there are more: --offset 1 reads on, --limit N shows more\n"
    for flag, name in (("--paused", "weekdays"), ("--enabled", "again")):
        assert [item["name"] for item in on("schedule", "list", flag)["items"]] == [name]
    on("workflow", "upload", "-", text=other("more"))
    empty = call("schedule", "list", "--workflow", "more", *target)
    assert (empty.exit_code, empty.stdout) == (0, "no schedules\n")
    unknown = call("schedule", "list", "--workflow", "none", *target)
    assert error_of(unknown, 1) == "error: workflow not found: none\n"


def test_a_schedule_is_shown_by_id_or_name(call: Call, target: list[str], weekdays: Any) -> None:
    shown = [call("schedule", "show", key, *target).stdout for key in (weekdays["id"], "weekdays")]
    assert shown[0] == shown[1]
    assert "At 08:30 on Monday to Friday, Europe/Berlin" in shown[0]
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in shown[0].splitlines())
    assert (facts["params"], facts["overlap"], facts["catch up"]) == ('{"day": 3}', "skip", "last")
    assert re.fullmatch(TIME, facts["next"]) and facts["state"] == "enabled"
    assert not {"error", "last", "waiting"} & facts.keys()


def test_the_next_times_are_shown_in_three_ways(call: Call, target: list[str], on: On, weekdays: Any) -> None:
    header, *rows = call("schedule", "next", "weekdays", "--count", "3", *target).stdout.splitlines()
    assert header.split() == ["ZONE_TIME", "UTC", "LOCAL"] and len(rows) == 3
    for row in rows:
        zone, utc, local = (datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z") for text in re.findall(TIME, row))
        assert zone == utc == local and utc.strftime("%z") == "+0000"
        assert zone.strftime("%H:%M") == "08:30"
    assert len(on("schedule", "next", "weekdays")["times"]) == 10
    on("schedule", "pause", "weekdays")
    paused = call("schedule", "next", "weekdays", *target)
    assert paused.stderr.startswith("note: the schedule is paused") and len(paused.stdout.splitlines()) == 11
    assert "101 is not in the range" in call("schedule", "next", "weekdays", "--count", "101", *target).stderr


def test_a_schedule_is_paused_resumed_triggered_and_deleted(
    call: Call, target: list[str], on: On, weekdays: Any
) -> None:
    number = weekdays["id"]
    assert call("schedule", "pause", "weekdays", *target).stdout == f"✅ Schedule paused: {number}\n"
    assert on("schedule", "show", number)["is_enabled"] is False
    assert call("schedule", "trigger", "weekdays", *target).stdout == "✅ Instance ID: 1\n"
    assert on("instance", "status", "1")["params"] == {"region": "eu", "day": 3}
    assert call("schedule", "resume", "weekdays", *target).stdout == f"✅ Schedule resumed: {number}\n"
    assert on("schedule", "show", number)["is_enabled"] is True
    assert call("schedule", "delete", "weekdays", *target).stdout == f"✅ Schedule deleted: {number}\n"
    assert on("schedule", "list")["total"] == 0


def test_a_schedule_that_is_not_there_is_said_alike(call: Call, target: list[str]) -> None:
    for name in ("none", "..", "a/b", "%2F", "ß"):
        for command in ("show", "next", "pause", "resume", "trigger", "delete"):
            refused = call("schedule", command, name, *target)
            assert error_of(refused, 1) == f"error: schedule not found: {name}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("none", "--name", "s", "--cron", "@daily"), 1, "error: workflow not found: none\n"),
        (("orders", "--name", "s", "--cron", "61 * * * *"), 2, "61"),
        (("orders", "--name", "s", "--cron", "@daily", "--zone", "Mars"), 2, "unknown time zone 'Mars'"),
        (("orders", "--name", "s", "--cron", "@daily", "-p", "day=monday"), 2, "expected integer, got"),
        (("orders", "--name", "s", "--cron", "@daily", "--overlap", "maybe"), 2, "'maybe' is not one of"),
        (("orders", "--name", "s", "--cron", "@daily", "--catch-up-limit", "0"), 2, "--catch-up-limit"),
        (("orders", "--name", "taken", "--cron", "@daily"), 1, "there is a schedule 'taken' already"),
        (("orders", "--cron", "@daily"), 2, "--name"),
        (("orders", "--name", "s"), 2, "--cron"),
    ],
)
def test_what_makes_no_sense_is_refused(
    call: Call, database_url: str, arguments: tuple[str, ...], code: int, words: str
) -> None:
    flags = ("--db", database_url)
    call("workflow", "upload", "-", *flags, text=ORDERS)
    assert call(*CREATE, "taken", *flags).exit_code == 0
    assert words in error_of(call("schedule", "create", *arguments, *flags), code)
    assert json.loads(call("schedule", "list", "--json", *flags).stdout)["total"] == 1


def test_both_ways_print_the_same(database_url: str, start: Start, call: Call) -> None:
    flags = ("--shared",) if database_url.startswith("sqlite") else ()
    url = start("server", "start", "--port", "0", "--db", database_url, *flags).event("server.started")["url"]
    ways = (("--server", url), ("--db", database_url))

    def same(*arguments: str, code: int = 0) -> str:
        first, second = (call(*arguments, *way) for way in ways)
        told = (first.exit_code, first.stdout, first.stderr)
        assert told == (second.exit_code, second.stdout, second.stderr)
        assert first.exit_code == code, first.output
        return first.stdout

    call("workflow", "upload", "-", *ways[0], text=ORDERS)
    for name, way in (("first", ways[0]), ("second", ways[1])):
        made = call(*CREATE, name, "--zone", "America/New_York", "--json", *way)
        assert made.exit_code == 0, made.output
    for command in (("list",), ("list", "--limit", "1"), ("show", "first"), ("next", "second")):
        same("schedule", *command)
        same("schedule", *command, "--json")
    same("schedule", "create", "orders", "--name", "first", "--cron", "@daily", code=1)
    same("schedule", "create", "orders", "--name", "x", "--cron", "nope", code=2)
    same("schedule", "create", "orders", "--name", "x", "--cron", "@daily", "-p", "day=monday", code=2)
    same("function", "list")
    same("function", "list", "--json")


def test_functions_are_listed_with_the_workers_that_have_them(call: Call, database_url: str) -> None:
    flags = ("--db", database_url)
    none = call("function", "list", *flags)
    assert none.stdout == "no functions; workers with --functions register them\n"
    day = {"properties": {"day": {}, "limit": {}}, "required": ["day"]}
    here = {"name": "extract", "description": "Reads a day.", "origin": "m:extract", "params": day}
    gone = {**here, "name": "load", "params": None}
    database = Database(database_url, wake_others=False)
    do(functions.register(database, [here], session(database)))
    do(functions.register(database, [gone]))
    database.close()
    header, *rows = call("function", "list", *flags).stdout.splitlines()
    assert header.split() == ["NAME", "WORKERS", "PARAMETERS", "DESCRIPTION"]
    assert [row.split() for row in rows] == [
        ["extract", "1", "day,", "limit?", "Reads", "a", "day."],
        ["load", "none", "Reads", "a", "day."],
    ]
    missing = json.loads(call("function", "list", "--missing", "--json", *flags).stdout)
    assert [item["name"] for item in missing["items"]] == ["load"]


def test_a_worker_makes_its_functions_known(call: Call, start: Start, database_url: str) -> None:
    Path("shop.py").write_text("import engine\n\n@engine.task\ndef price(order: str) -> int:\n    return 1\n")
    flags = ("--db", database_url)
    worker = start("worker", "start", "--functions", "shop", "--name", "w1", *flags)
    worker.event("worker.started")
    listed = json.loads(call("function", "list", "--json", *flags).stdout)
    assert {item["name"]: item["workers"] for item in listed["items"]}["price"] == ["w1"]
    missing = json.loads(call("function", "list", "--missing", "--json", *flags).stdout)
    assert "price" not in [item["name"] for item in missing["items"]]
