"""One request to somebody who has to be told: what counts as told, what is tried again, and when."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Annotated

import httpx
from pydantic import Field

from engine.errors import PermanentError, RetryAfter
from engine.plugins.network import Network

MAX_RETRY_SECONDS = 3_600.0  # whatever the receiver asks for
_SHOWN = 200  # characters of an answer
_READ = 4_096  # bytes of an answer
_AGAIN = frozenset({408, 425, 429})
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]


class NotTold(Exception):
    """The receiver was not reached, or could not take it now. Worth another try."""


def check_url(url: str) -> str:
    """Raises `ValueError`. Also for a URL with line breaks, which could add headers."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError("not an http:// or https:// URL with a host")
    return url


def check_header(value: str) -> str:
    """Raises `ValueError` for what no header can have as its value."""
    if not value.isprintable() or not value.isascii():
        raise ValueError("holds a line break or another character that no header may have")
    return value


async def send(
    network: Network, url: str, *, method: str, headers: Mapping[str, str], body: bytes, seconds: float
) -> int:
    """The status, which is 2xx. Follows no redirect: what is signed is for this receiver.

    Raises `NotTold`, `RetryAfter` if the receiver says when, and `PermanentError`.
    """
    told = {"Accept-Encoding": "identity", "User-Agent": "task-engine", **headers}
    async with httpx.AsyncClient(
        transport=network.transport(), trust_env=False, timeout=httpx.Timeout(seconds), follow_redirects=False
    ) as client:
        try:
            async with client.stream(method, url, headers=told, content=body) as response:
                text = await _beginning(response)
        except (httpx.HTTPError, OSError) as error:
            raise NotTold(f"{_host(url)} was not reached: {error or type(error).__name__}") from None
    if response.is_success:
        return response.status_code
    message = f"{_host(url)} answered {response.status_code}{f': {text}' if text else ''}"
    if response.status_code not in _AGAIN and response.status_code < 500:
        raise PermanentError(message)
    seconds_asked = _retry_after(response.headers.get("retry-after"))
    raise NotTold(message) if seconds_asked is None else RetryAfter(seconds_asked, message)


async def _beginning(response: httpx.Response) -> str:
    body = b""
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) >= _READ:
            break
    text = body[:_READ].decode("utf-8", errors="replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN]


def _retry_after(value: str | None) -> float | None:
    """Seconds of a `Retry-After` header, which has a number or a date; None if it makes no sense."""
    if value is None:
        return None
    try:
        seconds = float(int(value)) if value.strip().isdigit() else _until(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_SECONDS)


def _until(date: str) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time()


def _host(url: str) -> str:
    """Without the rest, which is a secret with many receivers."""
    return httpx.URL(url).host
