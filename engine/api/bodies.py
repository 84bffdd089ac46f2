"""Request bodies: read within a limit, decoded strictly, checked for storability. Bad ones are 400 or 413."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from litestar.exceptions import ClientException

from engine.api.answers import shorten
from engine.api.options import ApiRequest, actor_of, services_of
from engine.api.run_wire import CancelIn
from engine.model.json import JSON, Unstorable, check_storable
from engine.model.outcomes import NO_REASON
from engine.operations.submits import Key

_cancel: msgspec.json.Decoder[CancelIn] = msgspec.json.Decoder(CancelIn)
T = TypeVar("T")
_MAX_TEXT = 200
_THREAD_BYTES = 128 * 1024  # larger bodies are decoded and translated in a thread: the loop goes on
_LARGE_BYTES = 1024 * 1024
_MANY_OBJECTS = 5_000_000
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


async def read_reason(request: ApiRequest) -> str:
    """Of a cancel, whose body may be missing."""
    body = await read_small_body(request)
    reason = decode(_cancel, body).reason if body.strip() else None
    check_values("reason", reason)
    return NO_REASON if reason is None else reason


def too_large(limit: int) -> str:
    return f"request body is larger than the limit of {limit} bytes"


async def off_loop(body: bytes, work: Callable[[], T]) -> T:
    """Run `work` at once for small bodies, in a thread for large ones."""
    return work() if len(body) < _THREAD_BYTES else await asyncio.to_thread(work)


@contextmanager
def large_in_hand(body: bytes) -> Generator[None]:
    """While a large body is dealt with, the garbage collector waits for many more new objects than usual.

    Otherwise it goes through all of a graph several times while that is built, and nothing else runs
    meanwhile: half a second at a time for 100,000 tasks. What a graph was made of needs no collector.
    """
    global _large
    if len(body) < _LARGE_BYTES:
        yield
        return
    _large += 1
    gc.set_threshold(_MANY_OBJECTS, *_THRESHOLDS[1:])
    try:
        yield
    finally:
        _large -= 1
        if not _large:
            gc.set_threshold(*_THRESHOLDS)


_large = 0  # how many are in hand
_THRESHOLDS = gc.get_threshold()


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Raises `ClientException` (400), text `invalid JSON: …`.

    Of repeated keys the last counts, nothing is coerced; the decoder's type says whether keys that it does
    not know are ignored.
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
        raise invalid_json(_reason(error, body)) from None


def _reason(error: Exception, body: bytes) -> str:
    if not body.strip():
        return "empty body"
    if not isinstance(error, msgspec.ValidationError) and _LONE_SURROGATE.search(body):
        return "text contains a lone surrogate"  # which msgspec takes for the end of the body
    return str(error)


_LONE_SURROGATE = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")


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


def idempotency_key(request: ApiRequest, parts: Iterable[Any]) -> Key | None:
    """The key of the `Idempotency-Key` header, bound to who asks, the route and what the body says."""
    given = next((value for name, value in request.scope["headers"] if name == b"idempotency-key"), None)
    if given is None:
        return None
    text = given.decode("latin-1")
    if not (1 <= len(text) <= _MAX_TEXT and text.isascii() and text.isprintable()):
        raise ClientException(f"Idempotency-Key must have 1 to {_MAX_TEXT} printable ASCII characters")
    scope = f"{actor_of(request)} {request.method} {request.scope['path']}"
    return Key(scope, text, fingerprint(parts))


def fingerprint(parts: Iterable[Any]) -> str:
    """The same for bodies that differ only in spaces, the order of keys, and keys that are ignored.

    In parts, because other threads wait while one of them is encoded.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(msgspec.json.encode(part, order="sorted") + b"\n")
    return digest.hexdigest()
