"""What servers answer, as typed values; what is not as expected is `ServerUnavailable`."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from engine.errors import ServerUnavailable
from engine.model.json import JSON

T = TypeVar("T")


def rows(answer: JSON, name: str, kind: type[T], **added: Any) -> list[T]:
    """The records of a list answer; `added` are fields that the path of the request named."""
    return [typed({**row, **added}, kind) for row in field_of(answer, name, list[dict[str, Any]])]


def field_of(answer: JSON, name: str, kind: type[T]) -> T:
    return typed(typed(answer, dict[str, Any]).get(name), kind)


def typed(document: JSON, kind: type[T]) -> T:
    try:
        return msgspec.convert(document, kind)
    except (msgspec.ValidationError, TypeError) as error:
        raise ServerUnavailable(
            f"the server's answer is not as expected ({error}); is it another release?"
        ) from None
