"""Options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

import rich_click as click
from click.shell_completion import CompletionItem

from engine.model.graph import MAX_NAME
from engine.model.json import check_storable
from engine.settings import seconds

Command = Callable[..., Any]


class OnDisk(click.ParamType[str]):
    """A path, looked at only by whoever opens it; shells complete it."""

    def __init__(self, kind: Literal["file", "dir"]) -> None:
        self.name = kind

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem[str]]:
        return [CompletionItem(incomplete, type=self.name)]


_CENTURY = 36_525 * 86_400.0  # seconds
_MAX_TEXT = 1_000  # as the REST interface takes it
FILE = OnDisk("file")


def _or_global(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Options of the program itself, before the command, hold where the command is given none."""
    return value or ctx.find_root().params.get(str(param.name), value)


json_option = click.option("--json", "-j", "as_json", is_flag=True, callback=_or_global, help="Print JSON.")
server_option = click.option(
    "--server",
    "-s",
    metavar="URL",
    callback=_or_global,
    help="Server to talk to; by default one that answers at the configured address.",
)
config_option = click.option(
    "--config", type=FILE, metavar="FILE", help="YAML file with settings (ENGINE_CONFIG)."
)
db_option = click.option(
    "--db", "database_url", metavar="URL", help="postgresql://… or sqlite:///path (ENGINE_DATABASE_URL)."
)
functions_option = click.option(
    "--functions", metavar="A,B", help="Modules whose @task functions tasks may call (ENGINE_FUNCTIONS)."
)
data_dir_option = click.option(
    "--data-dir",
    "-data-dir",
    type=OnDisk("dir"),
    metavar="DIR",
    help="Folder of the embedded database (default: data).",
)


class Duration(click.ParamType[float]):
    """A duration such as `500ms`, `30s` or `1m30s`; a plain number is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return seconds(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Span(Duration):
    """A duration that some time can have: from `least` seconds to a hundred years."""

    def __init__(self, *, least: float) -> None:
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = super().convert(value, param, ctx)
        if not self._least <= found <= _CENTURY:
            self.fail(f"{value!r} is not a time from {self._least:g} s to 100 years", param, ctx)
        return found


class Name(click.ParamType[str]):
    """What the REST interfaces take for a name or a key, so that both ways accept the same."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not 1 <= len(text) <= MAX_NAME or not text.isprintable() or not text.strip():
            self.fail(f"{text[:80]!r} is not 1 to {MAX_NAME} printable characters", param, ctx)
        return text


class Text(click.ParamType[str]):
    """Text for people that every database stores."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            check_storable(text)
        except ValueError as error:
            self.fail(f"{error}", param, ctx)
        if not text.strip() or len(text) > _MAX_TEXT:
            self.fail(f"{text[:80]!r} is not 1 to {_MAX_TEXT} characters", param, ctx)
        return text


class RunId(click.ParamType[int]):
    """The number of a run."""

    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not re.fullmatch(r"[1-9][0-9]{0,17}", str(value)):
            self.fail(f"{value!r} is not the number of a run; `task-engine runs list` shows them", param, ctx)
        return int(value)


class Key(click.ParamType[str]):
    """What the REST interfaces take for an idempotency key."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not (1 <= len(text) <= MAX_NAME and text.isascii() and text.isprintable()):
            self.fail(f"{text[:80]!r} is not 1 to {MAX_NAME} printable ASCII characters", param, ctx)
        return text


DURATION = Duration()
NAME = Name()
RUN_ID = RunId()


def stacked(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several option decorators as one, shown in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def paging_options(default: int | None) -> Callable[[Command], Command]:
    """`--limit` and `--offset` as the task-engine contract knows them; without a default it is all."""
    return stacked(
        click.option(
            "--limit",
            type=click.IntRange(1, 100),
            default=default,
            show_default=default is not None,
            help="How many at most." if default else "How many at most (default: all).",
        ),
        click.option(
            "--offset", type=click.IntRange(0, 2**31 - 1), default=0, help="Leave out the first ones."
        ),
    )


def reason_option(*, is_required: bool) -> Callable[[Command], Command]:
    return click.option(
        "--reason", type=Text(), required=is_required, metavar="TEXT", help="Why, for those who look at it."
    )


def key_option(what: str) -> Callable[[Command], Command]:
    return click.option(
        "--idempotency-key",
        "key",
        type=Key(),
        metavar="KEY",
        help=f"{what} with the same key is the same {what.split()[-1]} (24 h).",
    )
