"""The process that evaluates expressions: one at a time, within limits, and dead rather than stuck.

Protocol on our input and output: four bytes of size, then JSON. We say `{}` when we are ready; then each
`{"text": …, "context": …}` is answered with `{"value": …}` or `{"error": message}`. The end of our input ends
us. While we evaluate we would not notice it, so an alarm kills us when the time is over.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, BinaryIO

from cel_expr_python import cel

from engine.model.json import JSON, Unstorable, check_storable

OUT_OF_MEMORY = 77  # our exit status; what is left of a heap that has been full is not worth keeping
MAX_RESULT_BYTES = 1024 * 1024

MAX_VALUES = 100_000  # in a result: a few lists that hold each other ten times over are billions
_MAX_MESSAGE = 500
_ENVIRONMENT = cel.NewEnv()


class Failed(Exception):
    """The expression has no value; the message says why, in CEL's words."""


def main(memory_mib: int, alarm_seconds: float) -> None:
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_AS, memory_mib * 2**20)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # an ignored one would be inherited
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _send(answers, b"{}")
    while request := _receive(requests):
        signal.setitimer(signal.ITIMER_REAL, alarm_seconds)
        try:
            reply = answer(request)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _send(answers, reply)


def answer(request: bytes) -> bytes:
    try:
        order = json.loads(request)
        value = evaluate(order["text"], order["context"])
        reply = json.dumps(
            {"value": value}, ensure_ascii=False, sort_keys=True
        ).encode()  # CEL has them in any order
        if len(reply) > MAX_RESULT_BYTES:
            raise Failed(f"the result has more than {MAX_RESULT_BYTES} bytes")
        return reply
    except Failed as error:
        return json.dumps({"error": str(error)}).encode()
    except RecursionError:
        return json.dumps({"error": "a value is nested too deeply"}).encode()


def evaluate(text: str, context: dict[str, JSON]) -> JSON:
    """The value as JSON; raises `Failed`. Times come as text: `2026-01-31T08:00:00Z`, `90s`."""
    try:
        result = _compile(text).eval(data=context)
        value = result.plain_value()
    except RuntimeError as error:  # most errors are values, some are not
        raise Failed(_message(str(error))) from None
    if result.type() == cel.Type.ERROR:
        raise Failed(_message(value))
    try:
        value = _plain(value)
        check_storable(value, max_values=MAX_VALUES)
    except Unstorable as error:
        raise Failed(f"the result is not JSON: {error}") from None
    return value


@lru_cache(maxsize=256)
def _compile(text: str) -> cel.Expression:
    # Unchecked: types are those of the values, and checking may take exponential time.
    return _ENVIRONMENT.compile(text, disable_check=True)


def _plain(value: Any) -> JSON:
    match value:
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {key: _plain(item) for key, item in value.items()}
        case datetime():
            return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            return _seconds(value)
        case bytearray() | bytes():
            raise Unstorable("bytes; string(x) makes text of them")
        case cel.Type():
            raise Unstorable("a type; compare it, as in type(x) == int")
        case _:
            return value


def _seconds(span: timedelta) -> str:
    """As CEL writes it: `90s`, `-1.5s`."""
    microseconds = span // timedelta(microseconds=1)
    whole, rest = divmod(abs(microseconds), 1_000_000)
    fraction = f".{rest:06}".rstrip("0") if rest else ""
    return f"{'-' if microseconds < 0 else ''}{whole}{fraction}s"


def _message(reported: str) -> str:
    """Without the status codes of the library, which say less than its words."""
    return re.sub(r"^[A-Z_]+: | \[[A-Z_]+\]$", "", reported[: 2 * _MAX_MESSAGE])[:_MAX_MESSAGE]


def _limit(kind: int, wanted: int) -> None:
    _, hard = resource.getrlimit(kind)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with suppress(OSError, ValueError):  # macOS has no such limit on memory
        resource.setrlimit(kind, (allowed, allowed))


def _receive(stream: BinaryIO) -> bytes:
    """Empty at the end of the stream."""
    return stream.read(int.from_bytes(stream.read(4), "big"))


def _send(stream: BinaryIO, message: bytes) -> None:
    try:
        stream.write(len(message).to_bytes(4, "big") + message)
        stream.flush()
    except BrokenPipeError:  # nobody waits for it any more
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
