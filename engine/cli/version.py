"""`task-engine version`."""

from __future__ import annotations

import platform
import sqlite3

import rich_click as click

from engine import __version__
from engine.cli.options import json_option
from engine.cli.output import print_json


@click.command("version")
@json_option
def version(as_json: bool) -> None:
    """Show the version."""
    if as_json:
        python, sqlite = platform.python_version(), sqlite3.sqlite_version
        print_json(
            {"version": __version__, "python": python, "sqlite": sqlite, "platform": platform.platform()}
        )
    else:
        click.echo(f"task-engine {__version__}")
