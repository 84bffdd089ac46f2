"""`task-engine db`: the schema of a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rich_click as click

from engine.cli.options import config_option, data_dir_option, db_option, json_option, stacked
from engine.cli.output import print_json, say
from engine.cli.wiring import check_schema, open_database, upgrade_schema
from engine.sdk.opening import shown, store_errors
from engine.settings import Settings, load
from engine.store import migrate
from engine.store.database import Database

_options: Callable[[Callable[..., Any]], Callable[..., Any]] = stacked(
    db_option, data_dir_option, config_option, json_option
)


@click.group("db")
def db() -> None:
    """Upgrade and check the database schema."""


@db.command("upgrade")
@click.option("--sql", is_flag=True, help="Print the SQL for an empty database instead; connects to nothing.")
@_options
def upgrade(sql: bool, as_json: bool, **flags: Any) -> None:
    """Bring the schema to this release's revision, making an SQLite file if there is none."""
    settings = load(flags)
    if sql:
        click.echo(migrate.upgrade_sql(settings.database))
        return
    database = open_database(settings)
    try:
        before = _revision(database)
        upgrade_schema(database)
        _show(
            database,
            as_json,
            f"upgraded from {before or 'nothing'}" if before != migrate.head() else "up to date",
        )
    finally:
        database.close()


@db.command("current")
@_options
def current(as_json: bool, **flags: Any) -> None:
    """Show the schema's revision and the one this release needs."""
    database = _open(load(flags))
    try:
        _show(database, as_json, "")
    finally:
        database.close()


@db.command("check")
@_options
def check(as_json: bool, **flags: Any) -> None:
    """End with exit code 3 unless the schema is exactly this release's."""
    database = _open(load(flags))
    try:
        check_schema(database)
        _show(database, as_json, "up to date")
    finally:
        database.close()


def _open(settings: Settings) -> Database:
    return open_database(settings, must_exist=True)


def _revision(database: Database) -> str | None:
    with store_errors(database.url):
        return migrate.current(database.engine)


def _show(database: Database, as_json: bool, remark: str) -> None:
    where = shown(database.url)
    revision = _revision(database)
    if as_json:
        print_json({"database": where, "revision": revision, "head": migrate.head()})
        return
    state = f"{revision or 'no schema'} (this release: {migrate.head()})"
    say(f"{where}: {state}{f', {remark}' if remark else ''}")
