"""Sends one HTTP request; any status is a success (contract section 6)."""

from __future__ import annotations

import functools
import json
import re
import ssl
import zlib
from typing import Any

import httpx
from pydantic import Field

from engine.executors.base import TaskContext
from engine.executors.network import PublicTransport
from engine.executors.params import Params, ParamsExecutor
from engine.executors.text import readable, shorten, storable
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.records import Lease

MAX_REDIRECTS = 10
CONNECT_SECONDS = 30.0  # the rest of the time is bounded by the task's own timeout
DEFAULT_HEADERS = {"Accept": "*/*", "Accept-Encoding": "gzip", "User-Agent": "task-engine"}

# The client library writes these itself; the original ignores them in a request, too.
_IGNORED_HEADERS = frozenset({"connection", "content-length", "host", "transfer-encoding"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_GZIP_OR_ZLIB = 47  # zlib's number for: whichever of the two headers there is


class HttpParams(Params):
    required = ("url",)

    url: str = Field("", description="`http://…` or `https://…`")
    method: str = Field("GET", description="any HTTP method")
    headers: dict[str, str] = Field(
        {},
        description="sent besides our own; `Host`, `Connection`, `Content-Length` and `Transfer-Encoding` "
        "are ignored",
    )
    body: Any = Field(None, description="text is sent as it is, anything else as JSON")

    def require(self) -> None:
        if not self.url.strip():
            raise ValueError("url is required")


class HttpExecutor(ParamsExecutor[HttpParams]):
    kind = "http"
    params_type = HttpParams

    async def perform(self, context: TaskContext, params: HttpParams) -> Outcome:
        try:
            request = _request(params, context.lease)
        except ValueError as error:
            return Failed(f"create request: {error}")
        # A client of its own per attempt: nothing of one task, cookies least of all, reaches another.
        async with httpx.AsyncClient(
            transport=self._transport(),
            trust_env=False,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        ) as client:
            return await _exchange(client, request, self.settings.http_body_bytes)

    def _transport(self) -> httpx.AsyncBaseTransport:
        plain = httpx.AsyncHTTPTransport(verify=_tls(), trust_env=False)
        return plain if self.settings.allow_private_network else PublicTransport(plain)


async def _exchange(client: httpx.AsyncClient, request: httpx.Request, limit: int) -> Outcome:
    try:
        response = await _send(client, request)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Failed(f"http request failed: {request.method} {_quoted(request.url)}: {_reason(error)}")
    try:
        body = await _body(response, limit)
    except (httpx.HTTPError, zlib.error) as error:
        return Failed(f"read response: {_reason(error)}")
    finally:
        await response.aclose()
    return Succeeded(_result(response, body))


async def _send(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """Follows redirects itself: httpx would read the body of each one whole, however large it is."""
    for _ in range(MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        if response.next_request is None:
            return response
        await response.aclose()
        request = response.next_request
    raise httpx.TooManyRedirects(f"stopped after {MAX_REDIRECTS} redirects", request=request)


def _request(params: HttpParams, lease: Lease) -> httpx.Request:
    """Raises `ValueError` if it cannot be sent as it is."""
    method = params.method.strip().upper() or "GET"
    if not _TOKEN.fullmatch(method):
        raise ValueError(f'invalid method "{shorten(params.method, 100)}"')
    content, kind = _content(params.body)
    headers = httpx.Headers({**DEFAULT_HEADERS, "Idempotency-Key": lease.idempotency_key, **kind})
    headers.update(_headers(params.headers))
    return httpx.Request(method, _url(params.url), headers=headers, content=content)


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text.strip())
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f'parse "{shorten(text, 200)}": {_reason(error)}') from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f'unsupported protocol scheme "{shorten(url.scheme, 100)}" (accepted: http, https)')
    if not url.host:
        raise ValueError("no host in request URL")
    return url


def _headers(sent: dict[str, str]) -> httpx.Headers:
    headers = {}
    for name, value in sent.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f'invalid header name "{shorten(name, 100)}"')
        if any((ord(character) < 32 and character != "\t") or character == "\x7f" for character in value):
            raise ValueError(f'header "{name}" has a line break or another control character in its value')
        if name.lower() not in _IGNORED_HEADERS:
            headers[name.encode()] = value.strip().encode()
    return httpx.Headers(headers)


def _content(body: JSON) -> tuple[bytes | None, dict[str, str]]:
    """What is sent, and the header that goes with it unless the client says otherwise."""
    if body is None:
        return None, {}
    if isinstance(body, str):
        return body.encode(), {}
    return json.dumps(body, ensure_ascii=False).encode(), {"Content-Type": "application/json"}


async def _body(response: httpx.Response, limit: int) -> bytes:
    """At most `limit` bytes after decompression; the rest stays unread.

    Decompressed here because httpx inflates each chunk whole: a small one can become hundreds of megabytes.
    """
    is_packed = response.headers.get("content-encoding", "").strip().lower() in ("gzip", "x-gzip", "deflate")
    inflate = zlib.decompressobj(_GZIP_OR_ZLIB).decompress if is_packed else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += inflate(chunk, limit + 1) if inflate else chunk
        if len(body) >= limit:
            break
    return bytes(body[:limit])


def _result(response: httpx.Response, body: bytes) -> JSON:
    return {
        "status_code": response.status_code,
        "body": readable(body, response.charset_encoding or "utf-8"),
        "headers": {name: storable(value) for name, value in response.headers.items()},
    }


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms: done once per process."""
    return httpx.create_ssl_context(trust_env=False)


def _quoted(url: httpx.URL) -> str:
    """The URL for a message: without its password."""
    return f'"{shorten(str(url.copy_with(userinfo=b"")), 200)}"'


def _reason(error: Exception) -> str:
    return shorten(str(error) or type(error).__name__, 300)
