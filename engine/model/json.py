"""JSON values, and the one check that decides whether a value can be stored on every database."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

JSON = Any  # a parsed JSON document; checked by `check_storable` where it enters

MAX_DEPTH = 64
MIN_INT, MAX_INT = -(2**63), 2**63 - 1


class Unstorable(ValueError):
    """The value cannot be stored as JSON; the message says where and why."""


def check_storable(value: JSON, *, max_depth: int = MAX_DEPTH, max_values: int | None = None) -> None:
    """Raise `Unstorable` unless every database we support stores `value` and gives it back unchanged.

    Refused: NUL and lone surrogates in text, NaN and infinities, integers beyond 64 bits, nesting
    deeper than `max_depth`, keys that are not text, and anything that is not JSON. `max_values` bounds the
    work: a few lists that hold each other ten times over are billions of values.
    """
    within: list[Iterator[Any]] = [iter((value,))]  # what is left of each container that we are inside of
    seen = 0
    while within:
        for item in within[-1]:
            seen += 1
            if max_values is not None and seen > max_values:
                raise Unstorable(f"more than {max_values} values")
            if isinstance(item, str):
                _check_text(item)
            elif item is None or isinstance(item, bool):
                continue
            elif isinstance(item, int):
                if not MIN_INT <= item <= MAX_INT:
                    raise Unstorable("integer is outside 64 bits")
            elif isinstance(item, float):
                if not math.isfinite(item):
                    raise Unstorable("number is not finite")
            elif isinstance(item, dict | list | tuple):
                if len(within) > max_depth:
                    raise Unstorable(f"nesting is deeper than {max_depth} levels")
                within.append(_children(item))
                break
            else:
                raise Unstorable(f"{type(item).__name__} is not a JSON type")
        else:
            within.pop()


def _children(item: dict[Any, Any] | Sequence[Any]) -> Iterator[Any]:
    if not isinstance(item, dict):
        return iter(item)
    for key in item:
        if not isinstance(key, str):
            raise Unstorable(f"object key of type {type(key).__name__}; keys must be text")
        _check_text(key)
    return iter(item.values())


def is_storable(value: JSON) -> bool:
    try:
        check_storable(value)
    except Unstorable:
        return False
    return True


def storable_text(text: str) -> str:
    """`text` with what cannot be stored everywhere (NUL, lone surrogates) as visible escapes."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise Unstorable("text contains the NUL character")
    if text.isascii():  # asked in no time, and mostly so
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unstorable("text contains a lone surrogate") from None
