"""What a function returns, made into JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from engine.errors import PermanentError
from engine.model.json import JSON, Unstorable, check_storable


def to_json(value: Any, what: str = "the result") -> JSON:
    """`value` as JSON that can be stored: dataclasses and models as objects, sets as lists, times as text.

    Keys become text, as long as that keeps them apart. Raises `PermanentError` that says where something is
    no JSON: another try would return the same.
    """
    try:
        document = to_jsonable_python(value, inf_nan_mode="constants")
        check_storable(document)
        if document != value:  # what is JSON already, as most is, need not be looked through
            _refuse_lossy_keys(value)
    except PydanticSerializationError:
        path, culprit = _culprit(value, "")
        raise PermanentError(
            f"{what} cannot be made into JSON: {type(culprit).__name__}{f' at {path}' if path else ''}"
        ) from None
    except (Unstorable, ValueError) as error:  # ValueError: bytes that are no text, a value within itself
        raise PermanentError(f"{what} cannot be made into JSON: {error}") from None
    return document


def _refuse_lossy_keys(value: Any) -> None:
    """Of dictionaries in plain containers and dataclasses: models have their own way. Raises `Unstorable`."""
    parts: Iterable[Any] = ()
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            _refuse_lossy(value)
        parts = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    elif dataclasses.is_dataclass(value):
        parts = (part for _, part in _parts(value))
    for part in parts:
        if type(part) not in _SCALARS:
            _refuse_lossy_keys(part)


def _refuse_lossy(value: Mapping[Any, Any]) -> None:
    for key in value:
        if key is None or isinstance(key, tuple):
            raise Unstorable(f"object key {key!r:.80}; keys must be text")
    if len(to_jsonable_python(dict.fromkeys(value))) < len(value):
        raise Unstorable(f"object keys that are the same as text: {', '.join(map(repr, value)):.200}")


_SCALARS = frozenset({str, int, float, bool, type(None)})


def _culprit(value: Any, path: str) -> tuple[str, Any]:
    """The innermost part that pydantic cannot serialize, and the way to it."""
    for key, part in _parts(value):
        try:
            to_jsonable_python(part)
        except (PydanticSerializationError, ValueError):
            return _culprit(part, f"{path}.{key}" if path else str(key))
    return path, value


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from enumerate(value)
    elif isinstance(value, BaseModel):
        yield from value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
