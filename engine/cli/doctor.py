"""`task-engine doctor`: what is in force here, and what a person should do about it."""

from __future__ import annotations

import asyncio
import platform
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import rich_click as click
from click.exceptions import Exit

from engine import __version__
from engine.cli.options import (
    config_option,
    data_dir_option,
    db_option,
    json_option,
    server_option,
    stacked,
)
from engine.cli.output import between, duration, print_json, say, show_table
from engine.cli.program import FAILED
from engine.cli.target import server_of
from engine.cli.wiring import SERVER_TOO, check_schema, is_sqlite, open_database
from engine.client.rest import Client
from engine.errors import EngineError
from engine.executors.registry import ExecutorRegistry
from engine.model.records import WorkerSession
from engine.model.states import FINAL_RUN_STATES, RunState
from engine.operations import totals, workers
from engine.sdk.configured import executor_settings
from engine.sdk.opening import shown, store_errors
from engine.settings import Settings, load
from engine.store import migrate
from engine.store.database import Database

_CLOCK_SECONDS = 2.0
_OLD_TRANSACTION_SECONDS = 300.0
_LITTLE_DISK, _NO_DISK = 1 << 30, 100 << 20

_ALL = 1_000_000

Level = Literal["ok", "warning", "problem"]
_BAD: tuple[Level, ...] = ("problem", "warning")


@dataclass(frozen=True, slots=True)
class Finding:
    """`warning` is something to know, `problem` something to act on: it makes the exit code 1."""

    check: str
    level: Level
    text: str


@click.command("doctor")
@stacked(server_option, db_option, data_dir_option)
@click.option("--token", metavar="TOKEN", help="Token for the server (better: ENGINE_TOKEN).")
@stacked(config_option, json_option)
def doctor(server: str | None, as_json: bool, **flags: Any) -> None:
    """Check database, schema, clock, workers and disk. Exit code 1 if something needs attention."""
    by_database = flags["database_url"] is not None or flags["data_dir"] is not None
    if server is not None and by_database:
        raise click.UsageError("give --server or a database (--db, --data-dir), not both")
    settings = load({**flags, "server": server})
    url = None if by_database else server_of(settings)
    findings = [_program(), *(_server(settings, url) if url is not None else _database(settings))]
    has_problem = any(finding.level == "problem" for finding in findings)
    if as_json:
        print_json({"ok": not has_problem, "findings": [asdict(finding) for finding in findings]})
    else:
        show_table(("CHECK", "", "FINDING"), ((f.check, f.level, f.text) for f in findings))
        say("")
        say(_verdict(findings))
    raise Exit(FAILED if has_problem else 0)


def _verdict(findings: Sequence[Finding]) -> str:
    """`1 problem, 2 warnings`, or `all well`."""
    levels = Counter(finding.level for finding in findings)
    counted = [
        f"{levels[level]} {level}{'' if levels[level] == 1 else 's'}" for level in _BAD if levels[level]
    ]
    return ", ".join(counted) or "all well"


def _program() -> Finding:
    text = f"task-engine {__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    return Finding("program", "ok", f"{text}, {platform.system()} {platform.release()}")


# --- through a server


def _server(settings: Settings, url: str) -> Iterator[Finding]:
    token = settings.token.get_secret_value() if settings.token else None
    with Client(url, token) as client:
        try:
            health = client.health()
            yield Finding("server", "ok", f"{url}: {health.get('version')}, up for {health.get('uptime')}")
            ready = client.ready()
            remarks = "; ".join(map(str, ready.get("remarks", ())))
            level: Level = "ok" if ready.get("is_durable") else "problem"
            yield Finding("database", "ok", str(ready.get("database")))
            yield Finding(
                "durability", level, "; ".join(filter(None, (str(ready.get("durability")), remarks)))
            )
            yield _workers(client.workers(only_live=True), _open_tasks(client))
        except EngineError as error:
            yield Finding("server", "problem", str(error))


def _open_tasks(client: Client) -> int:
    return sum(
        run.total - run.succeeded - run.failed - run.skipped - run.cancelled
        for state in RunState
        if state not in FINAL_RUN_STATES
        for run in client.runs(state=state, limit=_ALL)
    )


# --- on the database itself


def _database(settings: Settings) -> Iterator[Finding]:
    yield _executors(settings)
    yield _disk(settings)
    try:
        database = open_database(settings, must_exist=True, instead=SERVER_TOO)
    except EngineError as error:
        yield Finding("database", "problem", str(error))
        return
    try:
        yield from _look(database)
    except EngineError as error:
        yield Finding("database", "problem", str(error))
    finally:
        database.close()


def _look(database: Database) -> Iterator[Finding]:
    asked = datetime.now(UTC)
    with store_errors(database.url):
        facts = database.facts()
    answered = datetime.now(UTC)
    where = shown(database.url)
    yield Finding("database", "ok", f"{facts['database']} at {where}")
    if "journal_mode" in facts:
        yield _journal(facts)
    durability = database.durability()
    level: Level = "ok" if durability.is_durable else "problem"
    yield Finding("durability", level, "; ".join((durability.level, *durability.remarks)))
    yield _clock(facts["clock"], asked, answered)
    if "oldest_transaction_seconds" in facts:
        yield _oldest(facts["oldest_transaction_seconds"])
    if facts.get("pooler"):
        yield Finding("pooler", "ok", "a transaction pooler stands in between; wake-ups may not pass it")
    try:
        check_schema(database)
    except EngineError as error:
        yield Finding("schema", "problem", str(error))
        return
    yield Finding("schema", "ok", f"revision {migrate.head()}")
    counters = asyncio.run(totals.read(database))
    yield _workers(asyncio.run(workers.live(database)), counters["open"])


def _journal(facts: dict[str, Any]) -> Finding:
    text = f"journal_mode={facts['journal_mode']}"
    if facts["wal_is_safe_for_many"]:
        return Finding("journal", "ok", text)
    return Finding(
        "journal",
        "warning",
        f"{text}; {facts['database']} cannot share a WAL file safely between processes, so shared files "
        "use a rollback journal, which is slower; SQLite 3.51.3 or newer does not need that",
    )


def _clock(clock: datetime, asked: datetime, answered: datetime) -> Finding:
    """The difference is known to half the time that the question took."""
    middle = asked + (answered - asked) / 2
    seconds = (clock - middle).total_seconds()
    text = f"the database's clock is {seconds:+.3f} s from this host's"
    if abs(seconds) < _CLOCK_SECONDS:
        return Finding("clock", "ok", text)
    return Finding("clock", "warning", f"{text}; nothing breaks, but delays are off by as much")


def _oldest(seconds: float) -> Finding:
    text = f"the oldest open transaction began {duration(seconds * 1000)} ago"
    if seconds < _OLD_TRANSACTION_SECONDS:
        return Finding("transactions", "ok", text)
    return Finding(
        "transactions", "warning", f"{text}; it keeps the database from cleaning up: see pg_stat_activity"
    )


def _workers(live: list[WorkerSession], open_tasks: int) -> Finding:
    waiting = f", {open_tasks} open tasks" if open_tasks else ""
    if not live:
        return Finding("workers", "warning" if open_tasks else "ok", f"none alive{waiting}")
    shown = ", ".join(
        f"{session.name} ({session.concurrency} at a time, for {duration(between(session.started_at, None))})"
        for session in live[:5]
    )
    more = f" and {len(live) - 5} more" if len(live) > 5 else ""
    return Finding("workers", "ok", f"{len(live)} alive: {shown}{more}{waiting}")


def _executors(settings: Settings) -> Finding:
    try:
        registry = ExecutorRegistry.from_entry_points(executor_settings(settings, is_local=True))
    except EngineError as error:
        return Finding("kinds", "problem", str(error))
    return Finding("kinds", "ok", ", ".join(registry.kinds()))


def _disk(settings: Settings) -> Finding:
    """Of the database file, or of the folder that tasks write to."""
    on_disk = is_sqlite(settings.database) and settings.database_url is None
    folder = (settings.data_dir if on_disk else settings.file_root).absolute()
    while not folder.is_dir():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    level: Level = "problem" if free < _NO_DISK else "warning" if free < _LITTLE_DISK else "ok"
    return Finding("disk", level, f"{free / 2**30:.1f} GiB free at {_short(folder)}")


def _short(folder: Path) -> str:
    here = Path.cwd()
    return str(folder.relative_to(here)) if folder.is_relative_to(here) else str(folder)
