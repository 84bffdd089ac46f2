"""Parameters of an instance: `--params name=value`, and files of them."""

from __future__ import annotations

import json
from typing import Any, Never

import rich_click as click

from engine.cli.options import FILE, stacked
from engine.client.documents import read
from engine.errors import InvalidInput
from engine.model.json import JSON, Unstorable, check_storable, storable_text


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
        found = _value(text)
        if problem := _problem(found):
            self.fail(f"{name}: {problem}", param, ctx)
        return name, found


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


def _problem(value: JSON) -> str | None:
    """Why no database stores it."""
    try:
        check_storable(value)
    except Unstorable as error:
        return str(error)
    return None


def _refuse(constant: str) -> Never:
    raise ValueError(constant)


class Value(click.ParamType[JSON]):
    """JSON where it can be read as JSON, otherwise text."""

    name = "value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> JSON:
        if not _is_text(value):
            self.fail(f"{value!r} is not UTF-8", param, ctx)
        found = _value(value)
        if problem := _problem(found):
            self.fail(problem, param, ctx)
        return found


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
        for name, value in document.value.items():
            if problem := _problem([name, value]):
                raise document.error((name,), f"parameter {storable_text(name)!r}: {problem}")
        params |= document.value
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"parameter {name!r} is given twice")
    return params | dict(given)
