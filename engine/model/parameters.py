"""Parameters that a workflow declares, and the values they have in one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from engine.errors import ParamsError, path_text
from engine.model import shapes
from engine.model.json import JSON


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
    """Whether `value` has the declared type. Null is fine for what may be left out."""
    if value is None:
        return param.type is ParamType.ANY or not param.required
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


def effective(declared: Mapping[str, Param], given: Mapping[str, JSON]) -> dict[str, JSON]:
    """Values by name: those of the execution, then the defaults. Names that nobody declared are kept.

    Raises `ParamsError` that tells all that is missing or of a wrong type.
    """
    missing = [name for name, param in declared.items() if param.required and name not in given]
    wrong = [
        f"{path_text(('params', name))}: expected {param.type}, got {shapes.echo(given[name])}"
        for name, param in declared.items()
        if name in given and not accepts(param, given[name])
    ]
    if missing:
        wrong.insert(0, f"missing parameters: {', '.join(missing)}")
    if wrong:
        raise ParamsError("\n".join(wrong))
    return {**{name: param.default for name, param in declared.items()}, **given}
