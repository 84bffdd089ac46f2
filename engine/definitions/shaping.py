"""Parts of a document as wire models. What is wrong is noted with its path and left out, so that the rest can
be looked at as well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine.definitions.source import Path
from engine.definitions.wire import RealtimeTaskIn, TaskIn
from engine.errors import MAX_FAULTS
from engine.model.json import JSON
from engine.model.shapes import echo
from engine.model.similar import near

M = TypeVar("M", bound=BaseModel)
Note = Callable[[Path, str], None]

_EXPECTED = {
    "string_type": "text",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_OF_STREAMS = {*RealtimeTaskIn.model_fields, "type"} - TaskIn.model_fields.keys()


def shape(model: type[M], value: JSON, path: Path, note: Note) -> M:
    """The model of `value` without what is wrong in it; all of that is noted."""
    noted = 0
    while noted < MAX_FAULTS:
        try:
            return model.model_validate(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
        for item in found:
            note((*path, *item["loc"]), _message(item, model))
            value = _without(value, item["loc"])
        noted += len(found)
    return model()


def _message(item: Any, model: type[BaseModel]) -> str:
    kind, value = item["type"], item["input"]
    if kind == "missing":
        return "is required"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind]}, got {echo(value)}"
    if kind == "enum":
        return f"expected {item['ctx']['expected'].replace(chr(39), '')}, got {echo(value)}"
    if kind == "extra_forbidden" and model is TaskIn and item["loc"][0] in _OF_STREAMS:
        return "unknown key (streaming tasks stand under realtime_tasks)"
    if kind == "extra_forbidden":
        return f"unknown key{near(str(item['loc'][-1]), _fields(model, item['loc'][:-1]))}"
    if kind in ("greater_than_equal", "less_than_equal"):
        return f"{value}: {item['msg'][:1].lower()}{item['msg'][1:]}"
    message: str = item["msg"].removeprefix("Value error, ")
    return message


def _fields(model: type[BaseModel], path: Path) -> list[str]:
    """The keys of the model that stands at `path` inside `model`."""
    for step in path:
        if isinstance(step, str) and step in model.model_fields:
            model = _model_in(model.model_fields[step].annotation) or model
    return list(model.model_fields)


def _model_in(hint: Any) -> type[BaseModel] | None:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    inner = (_model_in(part) for part in getattr(hint, "__args__", ()))
    return next((found for found in inner if found is not None), None)


def _without(value: JSON, path: Path) -> JSON:
    """A copy without the innermost key of an object on the way of `path`; nothing if it is wrong as a whole.

    The key may have gone already, with another mistake in the same list.
    """
    if not path:
        return {}
    keys = [
        depth
        for depth, step in enumerate(path)
        if isinstance(step, str) and _has_key(value, path[:depth], step)
    ]
    return _removed(value, path[: keys[-1] + 1]) if keys else value


def _has_key(value: JSON, path: Path, key: str) -> bool:
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False
    return isinstance(value, dict) and key in value


def _removed(value: Any, path: Path) -> JSON:
    first, *rest = path
    if not rest:
        return {key: item for key, item in value.items() if key != first}
    if isinstance(value, dict):
        return {**value, first: _removed(value[first], tuple(rest))}
    return [_removed(item, tuple(rest)) if index == first else item for index, item in enumerate(value)]
