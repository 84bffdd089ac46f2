"""Reads protobuf messages without their schema: the CEL library gives its syntax tree in no other form.

Field numbers are those of `cel/expr/syntax.proto`, which the CEL project keeps stable.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field in order; a repeated one comes repeatedly, fixed numbers as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        else:
            size = _FIXED_SIZES[kind]
        yield number, message[at : at + size]
        at += size


def nested(message: bytes, number: int) -> list[bytes]:
    """The messages, or texts, in that field."""
    return [value for found, value in fields(message) if found == number and isinstance(value, bytes)]


def text(message: bytes, number: int) -> str:
    return b"".join(nested(message, number)[-1:]).decode()


def integer(message: bytes, number: int) -> int:
    return next((value for found, value in fields(message) if found == number and isinstance(value, int)), 0)


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
