"""Request bodies: read within a limit, decoded strictly, checked for storability. Bad ones are 400 or 413."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from litestar.exceptions import ClientException

from engine.api.answers import shorten
from engine.api.options import ApiRequest, actor_of, services_of
from engine.model.json import JSON, Unstorable, check_storable
from engine.operations.runs import Key

T = TypeVar("T")
_ANYTHING: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_MAX_TEXT = 200
_THREAD_BYTES = 128 * 1024  # larger bodies are decoded and translated in a thread: the loop goes on
MAX_PARAMS_BYTES = 256 * 1024


class TooLargeBody(ClientException):
    status_code = 413


async def read_body(request: ApiRequest, limit: int) -> bytes:
    """The whole body; refused as soon as it exceeds `limit` bytes."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientException("the request ended before its body was complete")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLargeBody(too_large(limit), headers={"connection": "close"})
        chunks.append(chunk)
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_submit_body(request: ApiRequest) -> bytes:
    return await read_body(request, services_of(request).options.submit_body_bytes)


async def read_small_body(request: ApiRequest) -> bytes:
    return await read_body(request, services_of(request).options.body_bytes)


def too_large(limit: int) -> str:
    return f"request body is larger than the limit of {limit} bytes"


async def off_loop(body: bytes, work: Callable[[], T]) -> T:
    """Run `work` at once for small bodies, in a thread for large ones."""
    return work() if len(body) < _THREAD_BYTES else await asyncio.to_thread(work)


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises `ClientException` (400), text `invalid JSON: …`.

    Of repeated keys the last counts, unknown keys are ignored, nothing is coerced.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look at the text of keys that it skips
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise invalid_json(f"not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise invalid_json("nesting is too deep") from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise invalid_json("empty body" if not body.strip() else str(error)) from None


def invalid_json(what: str) -> ClientException:
    return ClientException(shorten(f"invalid JSON: {what}", _MAX_TEXT))


def check_values(where: str, *values: JSON) -> None:
    """Raise the 400 of `decode` unless every database stores `values` unchanged."""
    try:
        for value in values:
            if value is not None and value is not msgspec.UNSET:
                check_storable(value)
    except Unstorable as error:
        raise invalid_json(f"{where}: {error}") from None


def check_size(where: str, body: bytes, value: JSON) -> None:
    """Parameters are kept in rows; larger ones belong into files."""
    if len(body) > MAX_PARAMS_BYTES and len(msgspec.json.encode(value)) > MAX_PARAMS_BYTES:
        raise ClientException(f"{where} is larger than the limit of {MAX_PARAMS_BYTES} bytes")


def idempotency_key(request: ApiRequest, body: bytes) -> Key | None:
    """The key of the `Idempotency-Key` header, bound to who asks, the route and what the body means."""
    given = next((value for name, value in request.scope["headers"] if name == b"idempotency-key"), None)
    if given is None:
        return None
    text = given.decode("latin-1")
    if not (1 <= len(text) <= _MAX_TEXT and text.isascii() and text.isprintable()):
        raise ClientException(f"Idempotency-Key must have 1 to {_MAX_TEXT} printable ASCII characters")
    scope = f"{actor_of(request)} {request.method} {request.scope['path']}"
    return Key(scope, text, fingerprint(body))


def fingerprint(body: bytes) -> str:
    """The same for bodies that differ only in spaces and in the order of keys."""
    try:
        canonical = msgspec.json.encode(decode(_ANYTHING, body), order="sorted")
    except OverflowError:  # in a key that the contract ignores
        raise invalid_json("integer is outside 64 bits") from None
    return hashlib.sha256(canonical).hexdigest()
