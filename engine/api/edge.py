"""The outermost layer, around Litestar: it also sees what no route takes.

In this order: trace id, Host and Origin, path, token, whether there is such a route, declared body size;
then the application. It adds headers to every answer, answers HEAD wherever there is GET, and writes the
access log. WebSockets are let through by the same checks, or refused before they are upgraded.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections import Counter
from functools import partial
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from engine.api.access import BEARER, Access, Browser, Denied, methods_at, scope_of, socket_scope_of
from engine.api.answers import Refusal, body_of, refusal_of
from engine.api.bodies import too_large
from engine.api.options import ApiOptions

_logger = logging.getLogger("engine.api")
_SUBMIT = frozenset({"/tasks", "/adapters/translate", "/adapters/actions", "/api/v1/runs"})
_UNSAFE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NOTHING = Refusal(404, "not_found", "there is nothing at this path")
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]
_ONCE = frozenset({b"host", b"authorization", b"origin", b"content-length", b"idempotency-key"})


class Edge:
    def __init__(self, app: ASGIApp, options: ApiOptions, access: Access) -> None:
        self._app = app
        self._options = options
        self._access = access
        self._browser = Browser(options)
        self._sockets: Counter[str] = Counter()  # by actor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            await self._http(dict(scope), receive, send)
        elif scope["type"] == ScopeType.WEBSOCKET:
            await self._socket(dict(scope), receive, send)
        else:
            await self._app(scope, receive, send)

    async def _http(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers, repeated = _collect(scope["headers"])
        trace_id = trace_id_of(headers.get(b"x-trace-id"))
        scope["engine_trace_id"] = trace_id.decode("latin-1")
        is_head = scope["method"] == "HEAD"
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-trace-id", trace_id),
                    *_HEADERS,
                    *self._cors(headers),
                ]
            elif is_head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            await self._handle(scope, headers, repeated, receive, answer)
        except Exception as error:
            if status:  # too late for an answer: the server closes the connection
                status = 500
                raise
            await _refuse(scope, refusal_of(error), answer)
        finally:
            self._log(scope, status, time.perf_counter() - started)

    async def _handle(
        self,
        scope: dict[str, Any],
        headers: dict[bytes, bytes],
        repeated: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        scope["engine_actor"] = "local"
        original_path = scope["path"]
        try:
            self._check_headers(scope, headers, repeated)
            if scope["method"] == "OPTIONS" and (preflight := self._preflight(headers)):
                await _empty(send, preflight)
                return
            scope["path"] = _normal_path(scope)
            if scope["method"] == "HEAD":
                scope["method"], scope["engine_is_head"] = "GET", True
            needed = scope_of(scope["method"], scope["path"])
            if self._options.require_token:
                scope["engine_actor"] = await self._access.require(headers.get(b"authorization"), needed)
            if needed is None:
                await _answer_no_route(scope, send)
                return
            self._check_size(scope, headers)
        except Denied as denied:
            scope["path"] = original_path
            await _refuse(scope, denied.refusal, send)
            return
        await self._app(scope, receive, send)  # type: ignore[arg-type]  # a scope is a dict

    # --- sockets

    async def _socket(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        headers, repeated = _collect(scope["headers"])
        trace_id = trace_id_of(headers.get(b"x-trace-id"))
        scope["engine_trace_id"] = trace_id.decode("latin-1")
        status = 0

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "websocket.accept":
                status = 101
                message["headers"] = [*message.get("headers", []), (b"x-trace-id", trace_id)]
            elif message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-trace-id", trace_id), *_HEADERS]
            if message["type"].startswith("http."):
                message["type"] = "websocket." + message["type"]
            await send(message)

        async def refuse(refusal: Refusal) -> None:
            await _refuse(scope, refusal, answer)

        scope["engine_refuse"] = refuse
        try:
            await self._handle_socket(scope, headers, repeated, receive, answer)
        except Exception as error:
            if status:
                raise
            await refuse(refusal_of(error))
        finally:
            self._log(scope, status, time.perf_counter() - started)

    async def _handle_socket(
        self,
        scope: dict[str, Any],
        headers: dict[bytes, bytes],
        repeated: bool,
        receive: Receive,
        send: Send,
    ) -> None:
        actor = scope["engine_actor"] = "local"
        original_path = scope["path"]
        try:
            self._check_headers(scope, headers, repeated)
            scope["path"] = _normal_path(scope)
            needed = socket_scope_of(scope["path"])
            if self._options.require_token:
                recheck = partial(self._access.require, _credentials(scope, headers), needed)
                actor = scope["engine_actor"] = await recheck()
                scope["engine_recheck"] = recheck
            if needed is None:
                raise Denied(_NOTHING)
            self._check_sockets(actor)
        except Denied as denied:
            scope["path"] = original_path
            await scope["engine_refuse"](denied.refusal)
            return
        self._sockets[actor] += 1
        try:
            await self._app(scope, receive, send)  # type: ignore[arg-type]  # a scope is a dict
        finally:
            self._sockets[actor] -= 1

    def _check_sockets(self, actor: str) -> None:
        options = self._options
        if self._sockets.total() >= options.max_sockets:
            detail = f"{options.max_sockets} WebSockets are open"
            raise Denied(Refusal(503, "overloaded", detail, {"retry-after": "5"}))
        if options.require_token and self._sockets[actor] >= options.max_sockets_each:
            detail = f"{options.max_sockets_each} WebSockets are open with this token"
            raise Denied(Refusal(429, "overloaded", detail, {"retry-after": "5"}))

    # --- checks

    def _check_headers(self, scope: dict[str, Any], headers: dict[bytes, bytes], repeated: bool) -> None:
        if repeated:
            raise Denied(Refusal(400, "bad_request", f"only one of each is accepted: {_names(_ONCE)}"))
        is_navigation = (
            scope.get("method") == "GET"
            and headers.get(b"sec-fetch-mode") == b"navigate"
            and headers.get(b"sec-fetch-dest") == b"document"
        )
        has_host = scope.get("http_version", "1.1") != "1.0"
        self._browser.check(headers, has_host=has_host, is_navigation=is_navigation)
        if headers.get(b"expect", b"100-continue").lower() != b"100-continue":
            raise Denied(Refusal(417, "expectation_failed", "the only expectation met is 100-continue"))
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise Denied(Refusal(415, "unsupported_encoding", "compressed bodies are not accepted"))
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            raise Denied(Refusal(415, "unsupported_encoding", "the only transfer coding accepted is chunked"))

    def _check_size(self, scope: dict[str, Any], headers: dict[bytes, bytes]) -> None:
        options = self._options
        limit = options.submit_body_bytes if scope["path"] in _SUBMIT else options.body_bytes
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit():
            raise Denied(Refusal(400, "bad_request", "Content-Length is not a number"))
        if len(declared) > 18 or int(declared) > limit:
            raise Denied(Refusal(413, "too_large", too_large(limit), {"connection": "close"}))

    # --- cross-origin answers, for listed origins only

    def _cors(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        origin = headers.get(b"origin")
        if origin is None or not self._browser.knows(origin):
            return []
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-trace-id, retry-after, location"),
            (b"vary", b"origin"),
        ]

    def _preflight(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        if b"access-control-request-method" not in headers or not self._cors(headers):
            return []
        return [
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE"),
            (b"access-control-allow-headers", b"authorization, content-type, idempotency-key, x-trace-id"),
            (b"access-control-max-age", b"600"),
        ]

    # --- the access log

    def _log(self, scope: dict[str, Any], status: int, seconds: float) -> None:
        wanted = self._options.access_log
        if wanted == "all" or (wanted == "errors" and (status >= 400 or status == 0)):
            level = logging.WARNING if status >= 500 or status == 0 else logging.INFO
            if _logger.isEnabledFor(level):
                fields = {
                    "trace_id": scope["engine_trace_id"],
                    "method": "HEAD" if scope.get("engine_is_head") else scope.get("method", "WS"),
                    "path": scope["path"],
                    "status": status,
                    "duration_ms": round(seconds * 1000, 2),
                }
                _logger.log(level, "request", extra={"fields": fields})


def _collect(pairs: Any) -> tuple[dict[bytes, bytes], bool]:
    """Headers by name, the first of repeated ones; and whether one is repeated that must not be."""
    headers: dict[bytes, bytes] = {}
    repeated = False
    for name, value in pairs:
        if name in headers:
            repeated = repeated or name in _ONCE
        else:
            headers[name] = value
    return headers, repeated


def _credentials(scope: dict[str, Any], headers: dict[bytes, bytes]) -> bytes | None:
    """What a program says in `Authorization`, a browser as `Sec-WebSocket-Protocol: bearer, <token>`."""
    offered = [*scope["subprotocols"], ""]
    if b"authorization" in headers or BEARER not in offered:
        return headers.get(b"authorization")
    token: str = offered[offered.index(BEARER) + 1]
    return b"Bearer " + token.encode("latin-1", "replace")


def _names(names: frozenset[bytes]) -> str:
    return ", ".join(sorted(name.decode() for name in names))


def trace_id_of(given: bytes | None) -> bytes:
    """The client's own id byte for byte, or a fresh one."""
    return given if given and not _UNSAFE.search(given) else secrets.token_hex(8).encode()


def _normal_path(scope: dict[str, Any]) -> str:
    """The path with every segment decoded once; `/` and `%` inside a segment stay encoded.

    So a segment is one segment whatever it holds; `text_of_segment` gives its text. Raises `Denied`.
    """
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    raw = raw.split(b"?", 1)[0]
    if raw == b"/" or (raw.startswith(b"/") and b"//" not in raw and not raw.endswith(b"/")):
        if b"%" not in raw:
            return str(raw, "latin-1")
        try:
            path = "/".join(_decoded(segment) for segment in raw.split(b"/"))
        except UnicodeDecodeError:
            path = "\0"
        if "\0" not in path:
            return path
    raise Denied(_NOTHING)


def _decoded(segment: bytes) -> str:
    return unquote_to_bytes(segment).decode().replace("%", "%25").replace("/", "%2F")


def text_of_segment(segment: str) -> str:
    """What a path parameter says."""
    return segment.replace("%2F", "/").replace("%25", "%") if "%" in segment else segment


async def _answer_no_route(scope: dict[str, Any], send: Send) -> None:
    """The methods of the path for OPTIONS; otherwise 405 or 404."""
    methods = methods_at(scope["path"])
    if socket_scope_of(scope["path"]) is not None:
        detail = "this is a WebSocket; the request did not ask for an upgrade"
        raise Denied(Refusal(426, "upgrade_required", detail, {"upgrade": "websocket"}))
    if not methods:
        raise Denied(_NOTHING)
    allow = ", ".join(methods)
    if scope["method"] == "OPTIONS":
        await _empty(send, [(b"allow", allow.encode())])
        return
    method = "HEAD" if scope.get("engine_is_head") else scope["method"]
    detail = f"{method} is not possible here, only {allow}"
    raise Denied(Refusal(405, "method_not_allowed", detail, {"allow": allow}))


async def _refuse(scope: dict[str, Any], refusal: Refusal, send: Send) -> None:
    status, media_type, body = body_of(refusal, scope["path"], scope["engine_trace_id"])
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", media_type.encode()),
                (b"content-length", str(len(body)).encode()),
                *((name.encode(), value.encode()) for name, value in refusal.headers.items()),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _empty(send: Send, headers: list[tuple[bytes, bytes]]) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
