"""How refusals look: `{"error": …}` for the ExecGo contract, `{code, message}` for that of task-engine, RFC
9457 problem details everywhere else.

One table from our errors to statuses. No text of a driver or of an unexpected exception gets out.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException

from engine.api.options import ApiRequest
from engine.errors import (
    Conflict,
    EngineError,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    Overloaded,
    SchemaMismatch,
    StoreUnavailable,
    TooLarge,
)

_WORKFLOW_ROOTS = tuple(
    f"/api/v1/{name}" for name in ("workflows", "instances", "schedules", "functions", "ws")
)
EXECGO_ROOTS = frozenset({"tasks", "health", "metrics", "mcp", "adapters"})
MAX_DETAIL = 500
ERROR_CODE = "x-error-code"
MAX_ERRORS = 20
_RETRY_SECONDS = 5
_logger = logging.getLogger("engine.api")


class FieldError(msgspec.Struct):
    """One thing that is wrong with a body; `pointer` is a JSON pointer into it."""

    pointer: str
    message: str


class ErrorBody(msgspec.Struct):
    error: str


class EnvelopeBody(msgspec.Struct):
    """A refusal of the task-engine contract: `code` repeats the status."""

    code: int
    message: str


class Problem(msgspec.Struct, omit_defaults=True):
    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] | None = None


class InvalidFields(InvalidInput):
    """The body is JSON, but breaks the schema or a rule at the given places."""

    code = "invalid_fields"

    def __init__(self, errors: list[FieldError]) -> None:
        self.errors = errors[:MAX_ERRORS]
        super().__init__("; ".join(f"{e.pointer or '/'}: {e.message}" for e in self.errors[:3]))


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error as HTTP knows it, before it takes the shape of a contract."""

    status: int
    code: str
    detail: str
    headers: dict[str, str] = field(default_factory=dict)
    errors: list[FieldError] = field(default_factory=list)


_STATUSES: tuple[tuple[type[EngineError], int], ...] = (
    (NotFound, 404),
    (IdempotencyMismatch, 422),
    (Conflict, 409),
    (TooLarge, 413),
    (InvalidInput, 422),
    (Overloaded, 503),
    (StoreUnavailable, 503),
    (SchemaMismatch, 503),
)
_CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "too_large",
    415: "unsupported_encoding",
    417: "expectation_failed",
    422: "invalid_input",
    503: "unavailable",
}


def refusal_of(error: Exception) -> Refusal:
    match error:
        case StoreUnavailable():
            detail = "the database is not available; try again later"
            return Refusal(503, error.code, detail, _of_database(error, error.retry_after))
        case SchemaMismatch():
            return Refusal(503, error.code, str(error), _of_database(error, _RETRY_SECONDS))
        case Overloaded():
            return Refusal(503, error.code, str(error), _retry_after(error.retry_after))
        case InvalidFields():
            return Refusal(422, error.code, str(error), errors=error.errors)
        case EngineError():
            status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
            return Refusal(status, error.code, str(error)) if status < 500 else _internal(error)
        case HTTPException() if error.status_code < 500 or error.status_code == 503:
            code = _CODES.get(error.status_code, "bad_request")
            detail = error.detail or HTTPStatus(error.status_code).phrase
            return Refusal(error.status_code, code, detail, dict(error.headers or {}))
        case _:
            return _internal(error)


def _internal(error: Exception) -> Refusal:
    _logger.error("request.failed", exc_info=error)
    return Refusal(500, "internal", "internal error; the log of the server has the details")


def _retry_after(seconds: int) -> dict[str, str]:
    return {"retry-after": str(seconds)}


def _of_database(error: EngineError, seconds: int) -> dict[str, str]:
    """Two of the contracts have no word for what is wrong, and 503 is also the answer of a busy server."""
    return {**_retry_after(seconds), ERROR_CODE: error.code}


# --- shapes


def body_of(refusal: Refusal, path: str, trace_id: str) -> tuple[int, str, bytes]:
    """Status, media type and body in the shape of the contract that owns `path`."""
    detail = shorten(refusal.detail, MAX_DETAIL)
    # Two of the contracts know no 422.
    status = 400 if refusal.status == 422 and refusal.code != "idempotency_mismatch" else refusal.status
    if is_execgo(path):
        return status, "application/json", msgspec.json.encode(ErrorBody(detail))
    if is_workflows(path):
        return status, "application/json", msgspec.json.encode(EnvelopeBody(status, detail))
    problem = Problem(
        type=f"/problems/{refusal.code}",
        title=refusal.code.replace("_", " ").capitalize(),
        status=refusal.status,
        detail=detail,
        instance=trace_id,
        errors=refusal.errors or None,
    )
    return refusal.status, "application/problem+json", msgspec.json.encode(problem)


def is_execgo(path: str) -> bool:
    return path.split("/", 2)[1] in EXECGO_ROOTS if path.startswith("/") else False


def is_workflows(path: str) -> bool:
    return path.startswith(_WORKFLOW_ROOTS)


def answer_error(request: ApiRequest, error: Exception) -> Response[bytes]:
    """Litestar's handler for every exception but those of `engine.api.parameters`."""
    refusal = refusal_of(error)
    trace_id: Any = request.scope.get("engine_trace_id", "")
    status, media_type, body = body_of(refusal, request.scope["path"], trace_id)
    return Response(body, status_code=status, media_type=media_type, headers=refusal.headers)


def shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
