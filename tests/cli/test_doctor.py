"""`task-engine doctor` and `task-engine db`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import Result

from engine.cli import doctor as module
from engine.sdk.opening import shown
from engine.store import migrate
from engine.store.dialects import parse_url
from tests.cli.process import Program
from tests.support.postgres import Server

Call = Callable[..., Result]
Start = Callable[..., Program]


def findings(result: Result) -> dict[str, dict[str, Any]]:
    return {item["check"]: item for item in json.loads(result.stdout)["findings"]}


def test_a_healthy_database(call: Call, database_url: str) -> None:
    result = call("doctor", "--json", "--db", database_url)
    found = findings(result)
    is_durable = found["durability"]["level"] == "ok"  # the Postgres of the tests is fast, and says so
    assert result.exit_code == (0 if is_durable else 1), result.output
    assert is_durable or "fsync is off" in found["durability"]["text"]
    others = {item["level"] for name, item in found.items() if name != "durability"}
    assert others <= {"ok", "warning"}
    wanted = {"program", "kinds", "disk", "database", "durability", "clock", "schema", "workers"}
    assert wanted <= found.keys()
    assert found["schema"]["text"] == f"revision {migrate.head()}"
    assert found["clock"]["level"] == "ok"
    assert ("journal" in found) == database_url.startswith("sqlite")
    assert ("transactions" in found) == database_url.startswith("postgresql")


def test_people_get_a_table_and_a_verdict(call: Call) -> None:
    assert call("db", "upgrade").exit_code == 0
    result = call("doctor")
    assert result.exit_code == 0
    assert "synchronous=FULL" in result.stdout


def test_the_verdict_counts_what_is_not_well(call: Call) -> None:
    levels: tuple[module.Level, ...] = ("ok", "warning", "problem", "warning")
    found = [module.Finding("x", level, "") for level in levels]
    assert module._verdict(found[:1]) == "all well"
    assert module._verdict(found) == "1 problem, 2 warnings"
    call("db", "upgrade")
    for text in (call("doctor").stdout, call("doctor", "--data-dir", "nowhere").stdout):
        lines = text.splitlines()
        listed = [
            module.Finding("x", level, "") for level in levels[1:3] for line in lines if f" {level} " in line
        ]
        assert lines[-1] == module._verdict(listed)


def test_tasks_that_nobody_works_on_are_a_warning_either_way(start: Start, call: Call) -> None:
    server = start("server", "start", "--port", "0", "--workers", "0", "--shared")
    url = server.event("server.started")["url"]
    graph = json.dumps({"tasks": [{"name": name, "kind": "noop"} for name in "ab"]})
    assert call("task", "submit", "-", "--server", url, text=graph).exit_code == 0
    for way in (("--server", url), ("--data-dir", "data")):
        finding = findings(call("doctor", "--json", *way))["workers"]
        assert (finding["level"], finding["text"]) == ("warning", "none alive, 2 open tasks")


def test_live_workers_are_named(database_url: str, start: Start, call: Call) -> None:
    worker = start("worker", "start", "--db", database_url, "--name", "left-hand", "--concurrency", "3")
    worker.event("worker.started")
    assert (
        "left-hand (3 at a time"
        in findings(call("doctor", "--json", "--db", database_url))["workers"]["text"]
    )


@pytest.mark.parametrize(
    ("url", "check", "text"),
    [
        ("postgresql://user:hunter2@127.0.0.1:1/x", "database", "is not available"),
        ("sqlite:///nowhere.db", "database", "there is no database file"),
    ],
)
def test_a_database_that_is_away_is_a_problem(call: Call, url: str, check: str, text: str) -> None:
    result = call("doctor", "--json", "--db", url)
    assert result.exit_code == 1
    assert text in findings(result)[check]["text"]
    assert "hunter2" not in result.output


def test_a_missing_schema_is_a_problem(call: Call, cluster: Server) -> None:
    result = call("doctor", "--json", "--db", cluster.url("postgres"))
    assert result.exit_code == 1
    assert "task-engine db upgrade" in findings(result)["schema"]["text"]


def test_a_server_is_asked_instead_of_its_database(start: Start, call: Call) -> None:
    url = start("server", "start", "--port", "0").event("server.started")["url"]
    result = call("doctor", "--json", "--server", url)
    assert result.exit_code == 0
    assert findings(result)["durability"]["text"].startswith("synchronous=FULL")
    assert findings(result)["workers"]["text"].startswith("1 alive")
    assert call("doctor", "--server", "http://127.0.0.1:1").exit_code == 1


def test_a_clock_that_differs_is_a_warning() -> None:
    now = datetime.now(UTC)
    assert module._clock(now, now, now).level == "ok"
    assert module._clock(now + timedelta(seconds=30), now, now).level == "warning"


def test_an_old_transaction_is_a_warning() -> None:
    assert module._oldest(10).level == "ok"
    assert module._oldest(3600).level == "warning"


# --- db


def test_an_upgrade_makes_the_file_and_is_repeatable(call: Call, empty_folder: Path) -> None:
    first = call("db", "upgrade")
    assert first.exit_code == 0
    assert "upgraded from nothing" in first.stdout
    assert "up to date" in call("db", "upgrade").stdout
    assert json.loads(call("db", "current", "--json").stdout)["revision"] == migrate.head()
    assert call("db", "check").exit_code == 0


def test_the_url_is_shown_as_it_was_written_but_for_the_password(
    call: Call, row_locking_url: str, empty_folder: Path
) -> None:
    assert call("db", "upgrade").stdout.startswith("sqlite:///data/task-engine.db: ")
    plain = sa.make_url(row_locking_url).set(drivername="postgresql", password=None)
    written = plain.set(password="hunter2").render_as_string(hide_password=False)
    hidden = written.replace("hunter2", "***")
    assert call("db", "upgrade", "--db", written).stdout.startswith(f"{hidden}: ")
    in_query = plain.update_query_dict({"password": "hunter2"}).render_as_string()
    assert "hunter2" in in_query
    assert "hunter2" not in call("db", "upgrade", "--db", in_query).stdout


def test_a_database_without_a_schema_fails_the_check(call: Call, cluster: Server) -> None:
    url = cluster.url("postgres")
    assert "no schema" in call("db", "current", "--db", url).stdout
    result = call("db", "check", "--db", url)
    assert result.exit_code == 3
    assert f"task-engine db upgrade --db {shown(parse_url(url))}`" in result.stderr


def test_looking_at_a_database_that_is_not_there_makes_none(call: Call, empty_folder: Path) -> None:
    assert call("db", "check").exit_code == 3
    assert call("db", "current").exit_code == 3
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/x", "sqlite:///x.db"])
def test_the_upgrade_can_be_printed_without_a_database(call: Call, url: str, empty_folder: Path) -> None:
    result = call("db", "upgrade", "--sql", "--db", url)
    assert result.exit_code == 0
    assert "CREATE TABLE task_state" in result.stdout
    assert list(empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"), [("mysql://h/x", "not supported"), ("nonsense", "cannot be read")]
)
def test_other_databases_are_refused_by_name(call: Call, url: str, message: str) -> None:
    result = call("db", "check", "--db", url)
    assert result.exit_code == 2
    assert message in result.stderr
