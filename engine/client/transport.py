"""One HTTP connection to a server: JSON out, JSON in, refusals as the engine's own errors.

Follows no redirect, so a token never travels to another host, and never shows the token.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx

from engine import __version__
from engine.errors import (
    AccessDenied,
    ConfigError,
    Conflict,
    EngineError,
    IdempotencyMismatch,
    InvalidInput,
    NotFound,
    Overloaded,
    SchemaMismatch,
    ServerUnavailable,
    StoreUnavailable,
    TooLarge,
)
from engine.model.json import JSON

_TIMEOUT_SECONDS = 60.0
_CONNECT_SECONDS = 5.0
_MAX_SHOWN = 500


class Transport:
    def __init__(
        self, url: str, token: str | None = None, *, timeout_seconds: float = _TIMEOUT_SECONDS
    ) -> None:
        self.url = check_url(url)
        headers = {"user-agent": f"task-engine/{__version__}", "accept": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {_plain(token)}"
        path = socket_path(self.url)
        self._http = httpx.Client(
            base_url="http://localhost" if path else self.url,
            transport=httpx.HTTPTransport(uds=path) if path else None,
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, _CONNECT_SECONDS)),
            follow_redirects=False,
            trust_env=not _is_local(self.url),  # a proxy has no business between us and our own machine
        )

    def get(self, path: str, **parameters: Any) -> JSON:
        return self.request("GET", path, parameters=parameters)

    def send(self, method: str, path: str, document: JSON = None, key: str | None = None) -> JSON:
        """With no body if `document` is None. `key` makes it safe to send the same again."""
        body = None if document is None else _encoded(document)
        headers = {"idempotency-key": key} if key else None
        return self.request(method, path, body=body, headers=headers)

    def text(self, path: str, media_type: str, **parameters: Any) -> str:
        """The text of an answer that is no JSON. Raises `EngineError`s."""
        answer = self._exchange("GET", path, parameters=parameters, headers={"accept": media_type})
        if answer.is_success and not answer.headers.get("content-type", "").startswith(media_type):
            raise ServerUnavailable(f"{self.url} answered without {media_type}; is it a Task Engine?")
        if not answer.is_success:
            self._read(answer)  # raises why
        return answer.text

    def request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> JSON:
        """The JSON of the answer, None if it is empty. Raises `EngineError`s."""
        return self._read(
            self._exchange(
                method,
                path,
                parameters=parameters,
                body=body,
                headers=headers,
                timeout_seconds=timeout_seconds,
            )
        )

    def _exchange(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx.Response:
        given = {key: value for key, value in (parameters or {}).items() if value is not None}
        media = {} if body is None else {"content-type": "application/json"}
        try:
            return self._http.request(
                method,
                path,
                params=given,
                content=body,
                headers={**media, **(headers or {})},
                timeout=httpx.USE_CLIENT_DEFAULT if timeout_seconds is None else timeout_seconds,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise ServerUnavailable(f"no server answers at {self.url} ({_reason(error)})") from None
        except httpx.HTTPError as error:
            raise ServerUnavailable(
                f"the connection to {self.url} failed ({_reason(error)})", is_unknown=method != "GET"
            ) from None

    def close(self) -> None:
        self._http.close()

    def _read(self, answer: httpx.Response) -> JSON:
        if answer.is_redirect:
            target = answer.headers.get("location", "")[:200]
            raise ServerUnavailable(
                f"{self.url} redirects to {target!r}; no redirect is followed, give that URL"
            )
        if not answer.content:
            document = None
        else:
            try:
                document = answer.json()
            except ValueError:  # a proxy's page
                raise ServerUnavailable(
                    f"{self.url} answered {answer.status_code} and no JSON; is it a Task Engine?"
                ) from None
        if answer.is_success:
            return document
        raise _refusal(answer, document)


def _refusal(answer: httpx.Response, document: JSON) -> EngineError:
    message = _message(document) or f"HTTP {answer.status_code}"
    match answer.status_code:
        case 401:
            return AccessDenied(
                f"{message}: give a token, by ENGINE_TOKEN or --token, in Python as `Client(url, token)`"
            )
        case 403:
            return AccessDenied(message)
        case 404:
            return NotFound(message)
        case 409:
            return Conflict(message)
        case 413:
            return TooLarge(message)
        case 422 if _is_mismatch(document):
            return IdempotencyMismatch(message)
        case 400 | 405 | 415 | 417 | 422:
            return InvalidInput(message)
        case 503 if answer.headers.get("x-error-code") == StoreUnavailable.code:
            return StoreUnavailable(message)
        case 503 if answer.headers.get("x-error-code") == SchemaMismatch.code:
            return SchemaMismatch(message)
        case 503:
            wait = answer.headers.get("retry-after", "")
            return Overloaded(message, int(wait) if wait.isdigit() else 5)
        case 504:  # given up while it was being done
            return ServerUnavailable(message, is_unknown=answer.request.method != "GET")
        case _:
            return ServerUnavailable(f"the server answered {answer.status_code}: {message}")


def _message(document: JSON) -> str | None:
    """The text of a refusal: ExecGo's `error`, task-engine's `message`, problem details' `detail`."""
    if not isinstance(document, dict):
        return None
    texts = (document.get(name) for name in ("error", "message", "detail", "title"))
    text = next(filter(None, texts), None)
    return text[:_MAX_SHOWN] if isinstance(text, str) else None


def _is_mismatch(document: JSON) -> bool:
    """Whether a 422 is about an idempotency key: two of the contracts know it for nothing else."""
    if not isinstance(document, dict):
        return False
    return (
        document.get("type") == "/problems/idempotency_mismatch" or not {"type", "detail"} & document.keys()
    )


def check_url(url: str) -> str:
    """The base URL without a trailing slash. Raises `ConfigError`."""
    if socket_path(url):
        return url
    try:
        parts = urlsplit(url)
        is_fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_fine = False
    if not is_fine or parts.query or parts.fragment:
        raise ConfigError("a server is given as http://HOST:PORT, https://HOST or unix:PATH")
    if parts.username or parts.password:
        raise ConfigError("a server's URL holds no user name or password; give a token with ENGINE_TOKEN")
    return url.rstrip("/")


def socket_path(url: str) -> str:
    """The path of `unix:PATH`, empty for other URLs."""
    return url.removeprefix("unix:") if url.startswith("unix:") else ""


def _plain(token: str) -> str:
    token = token.strip()
    if not token.isascii() or not token.isprintable():
        raise ConfigError("the token contains characters that no token has")
    return token


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _encoded(document: JSON) -> bytes:
    """Raises `InvalidInput` for what JSON has no word for."""
    try:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_iso, allow_nan=False)
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidInput("text contains a lone surrogate") from None
    except ValueError as error:
        raise InvalidInput(f"the request cannot be written as JSON: {error}") from None


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not JSON")
