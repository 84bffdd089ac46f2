"""Parameters that a workflow declares, and the values they have in one run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import assert_never

from engine.errors import MAX_FAULTS, ParamsError, path_text
from engine.model import shapes
from engine.model.json import JSON
from engine.model.similar import near


class ParamType(StrEnum):
    """The words of JSON Schema, and `any`."""

    ANY = "any"
    STRING = "string"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    ARRAY = "array"
    OBJECT = "object"


@dataclass(frozen=True, slots=True)
class Param:
    """A declared parameter. One that is not required and not given has its default, null if there is none."""

    default: JSON = None
    type: ParamType = ParamType.ANY
    required: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        shapes.normalise(self)


def accepts(param: Param, value: JSON) -> bool:
    """Whether `value` has the declared type. Null is of none, but it is what there is without a default."""
    if value is None:
        return param.type is ParamType.ANY or not (param.required or param.default is not None)
    match param.type:
        case ParamType.ANY:
            return True
        case ParamType.STRING:
            return isinstance(value, str)
        case ParamType.INTEGER:
            return isinstance(value, int) and not isinstance(value, bool)
        case ParamType.NUMBER:
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ParamType.BOOLEAN:
            return isinstance(value, bool)
        case ParamType.ARRAY:
            return isinstance(value, list | tuple)
        case ParamType.OBJECT:
            return isinstance(value, Mapping)
        case _:
            assert_never(param.type)


def effective(
    declared: Mapping[str, Param], given: Mapping[str, JSON], referenced: Iterable[str] | None = None
) -> dict[str, JSON]:
    """Values by name: those of the execution, then the defaults.

    With `referenced`, the names that tasks refer to, no others are accepted beside those declared. If nothing
    is declared, or `referenced` is None, all are kept. Raises `ParamsError` that tells all that is wrong.
    """
    missing = [name for name, param in declared.items() if param.required and name not in given]
    wrong = [
        f"{path_text(('params', name))}: expected {param.type}, got {shapes.echo(given[name])}"
        for name, param in declared.items()
        if name in given and not accepts(param, given[name])
    ]
    if missing:
        wrong.insert(0, f"missing parameters: {', '.join(missing)}")
    if declared and referenced is not None and not given.keys() <= declared.keys():
        wrong += _unknown(given, {*declared, *referenced})
    if wrong:
        raise ParamsError("\n".join(wrong))
    return {**{name: param.default for name, param in declared.items()}, **given}


def remembered(
    declared: Mapping[str, Param], stored: Mapping[str, JSON], referenced: Iterable[str]
) -> dict[str, JSON]:
    """Of values that were given once, for whatever version: those that `effective` would still take by name.

    A null goes, too, where there is a default by now.
    """
    known = {*declared, *referenced} if declared else {*stored}
    found = {name: value for name, value in stored.items() if name in known}
    return {
        name: value
        for name, value in found.items()
        if value is not None or name not in declared or accepts(declared[name], None)
    }


def _unknown(given: Iterable[str], known: Collection[str]) -> list[str]:
    unknown = islice((name for name in given if name not in known), MAX_FAULTS)
    return [
        f"{path_text(('params', name))}: the workflow has no such parameter{near(name, known)}"
        for name in unknown
    ]
