"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import rich_click as click

from engine.settings import seconds

Command = Callable[..., Any]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
config_option = click.option("--config", metavar="FILE", help="YAML file with settings (ENGINE_CONFIG).")
db_option = click.option(
    "--db", "database_url", metavar="URL", help="postgresql://… or sqlite:///path (ENGINE_DATABASE_URL)."
)
data_dir_option = click.option(
    "--data-dir", "-data-dir", metavar="DIR", help="Folder of the embedded database (default: data)."
)


class Duration(click.ParamType[float]):
    """A duration such as `500ms`, `30s` or `1m30s`; a plain number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()


def stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several option decorators as one, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate
