"""Frozen dataclasses as JSON and back, by their annotations. Only what differs from a default is written.

Understood are text, numbers, booleans, `StrEnum`, `X | None`, `Sequence[X]`, `Mapping[str, X]`, dataclasses
of these, and `Any` for JSON. A type that does not fit is a `Fault` with its path, never an exception.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from engine.errors import Fault
from engine.model.json import JSON

T = TypeVar("T")
Path = tuple[str | int, ...]

_WORDS: dict[Any, str] = {str: "text", int: "an integer", float: "a number", bool: "true or false"}
_MAX_ECHO = 80


def normalise(thing: Any) -> None:
    """For `__post_init__`: sequences become tuples, text becomes the enum's member.

    What does not fit stays as it is, for `faults` to tell.
    """
    for name, hint in _hints(thing.__class__).items():
        value = getattr(thing, name)
        if get_origin(hint) is Sequence and isinstance(value, list):
            object.__setattr__(thing, name, tuple(value))
        elif _is_enum(hint) and type(value) is str and value in list(hint):
            object.__setattr__(thing, name, hint(value))


def drop_repeats(thing: Any, name: str) -> None:
    """For `__post_init__`: a name that is listed twice counts once."""
    value = getattr(thing, name)
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        object.__setattr__(thing, name, tuple(dict.fromkeys(value)))


def to_json(thing: Any) -> dict[str, JSON]:
    """The fields of a dataclass that differ from their defaults, in the order of declaration."""
    hints = _hints(thing.__class__)
    values = {field.name: (field, getattr(thing, field.name)) for field in fields(thing)}
    return {
        name: _encode(hints[name], value) for name, (field, value) in values.items() if _is_told(field, value)
    }


def from_json(kind: type[T], document: JSON, faults: list[Fault], path: Path = ()) -> T | None:
    """The dataclass that `document` describes, or None with what is wrong added to `faults`."""
    before = len(faults)
    value = _decode(kind, document, path, faults)
    return value if len(faults) == before else None


def faults_of(thing: Any) -> list[Fault]:
    """Wrong types anywhere in a dataclass: whatever could not be read back from its JSON."""
    found: list[Fault] = []
    from_json(type(thing), to_json(thing), found)
    return found


def kind_of(value: Any) -> str:
    """What a value is, in the words of JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a number"
        case str():
            return "text"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def echo(value: Any) -> str:
    """What a value is, with the value if it is short to tell."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return f"{kind_of(value)} {value!r:.{_MAX_ECHO}}"
    return kind_of(value)


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, StrEnum)


def _is_told(field: Any, value: Any) -> bool:
    """Compared with its type: 0 is not the default `False`, nor is an empty list of another kind."""
    if field.default is not MISSING:
        return type(value) is not type(field.default) or bool(value != field.default)
    return field.default_factory is MISSING or bool(value != field.default_factory())


def _encode(hint: Any, value: Any) -> JSON:
    hint = _inner(hint)
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(value)
    if isinstance(value, StrEnum):
        return value.value
    if get_origin(hint) is Sequence and isinstance(value, tuple | list):
        return [_encode(get_args(hint)[0], item) for item in value]
    if get_origin(hint) is Mapping and isinstance(value, Mapping):
        return {key: _encode(get_args(hint)[1], item) for key, item in value.items()}
    return value


def _inner(hint: Any) -> Any:
    """The first of a union: `X | None` is X, and `Param | Any` is what `Any` has been made into."""
    return get_args(hint)[0] if get_origin(hint) in (Union, types.UnionType) else hint


def _decode(hint: Any, value: JSON, path: Path, faults: list[Fault]) -> Any:
    if value is None and type(None) in get_args(hint):
        return None
    hint = _inner(hint)
    origin = get_origin(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _decode_object(hint, value, path, faults)
    if origin is Sequence:
        if not isinstance(value, list | tuple):
            faults.append(Fault(path, f"expected a list, got {echo(value)}"))
            return ()
        return tuple(_decode(get_args(hint)[0], item, (*path, i), faults) for i, item in enumerate(value))
    if origin is Mapping:
        return dict(_decode_items(get_args(hint)[1], value, path, faults))
    if _is_enum(hint):
        if isinstance(value, str) and value in list(hint):
            return hint(value)
        faults.append(Fault(path, f"expected one of {', '.join(hint)}, got {echo(value)}"))
    elif not _fits(hint, value):
        faults.append(Fault(path, f"expected {_WORDS[hint]}, got {echo(value)}"))
    return value


def _decode_object(hint: Any, value: JSON, path: Path, faults: list[Fault]) -> Any:
    if not isinstance(value, Mapping):
        faults.append(Fault(path, f"expected an object ({hint.__name__}), got {echo(value)}"))
        return None
    hints, before = _hints(hint), len(faults)
    for key in value.keys() - hints.keys():
        faults.append(Fault((*path, str(key)), "unknown key"))
    for field in fields(hint):
        if field.default is MISSING and field.default_factory is MISSING and field.name not in value:
            faults.append(Fault((*path, field.name), "is required"))
    known = [name for name in hints if name in value]
    decoded = {name: _decode(hints[name], value[name], (*path, name), faults) for name in known}
    return hint(**decoded) if len(faults) == before else None


def _decode_items(hint: Any, value: JSON, path: Path, faults: list[Fault]) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        faults.append(Fault(path, f"expected an object, got {echo(value)}"))
        return
    for key, item in value.items():
        if isinstance(key, str):
            yield key, _decode(hint, item, (*path, key), faults)
        else:
            faults.append(Fault(path, f"keys are text, got {echo(key)}"))


def _fits(hint: Any, value: JSON) -> bool:
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)
