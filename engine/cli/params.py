"""Parameters of an instance: `--params name=value`, and files of them."""

from __future__ import annotations

import json
from typing import Any, Never

import rich_click as click

from engine.cli.options import FILE, stacked
from engine.client.documents import read
from engine.errors import InvalidInput
from engine.model.json import JSON


class Param(click.ParamType[tuple[str, JSON]]):
    """`name=value`; the value is JSON where it can be read as JSON, otherwise text."""

    name = "param"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, JSON]:
        name, separator, text = str(value).partition("=")
        if not separator or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        if not _is_text(value):
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return name, _value(text)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _value(text: str) -> JSON:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Never:
    raise ValueError(constant)


class Value(click.ParamType[JSON]):
    """JSON where it can be read as JSON, otherwise text."""

    name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> JSON:
        if not _is_text(value):
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        return _value(value)


params_options = stacked(
    click.option(
        "--params",
        "-p",
        "given",
        type=Param(),
        metavar="NAME=VALUE",
        multiple=True,
        help="A parameter, as JSON or else as text; may be repeated.",
    ),
    click.option("--params-file", type=FILE, metavar="FILE", help="JSON or YAML object with parameters."),
)


def params_of(given: tuple[tuple[str, JSON], ...], params_file: str | None) -> dict[str, JSON]:
    """Those of the file, and over them those that were given. Raises `InvalidInput`, `UsageError`."""
    params: dict[str, JSON] = {}
    if params_file is not None:
        document = read(params_file)
        if not isinstance(document.value, dict):
            raise document.error((), "parameters are an object with their names as keys")
        params |= document.value
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"parameter {name!r} is given twice")
    return params | dict(given)
