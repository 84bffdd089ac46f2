"""How plug-ins of ours reach others. Whoever runs them says which addresses they may connect to."""

from __future__ import annotations

import functools
import ssl
from typing import Protocol

import httpx


class Network(Protocol):
    def transport(self) -> httpx.AsyncBaseTransport:
        """For a client of HTTP."""
        ...

    async def addresses(self, host: str, port: int) -> list[str]:
        """Where to connect to for `host`. Raises `OSError` if that is nowhere."""
        ...


class OpenNetwork:
    """Every address."""

    def transport(self) -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(verify=tls(), trust_env=False)

    async def addresses(self, host: str, port: int) -> list[str]:
        return [host]


@functools.cache
def tls() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms: done once per process."""
    return httpx.create_ssl_context(trust_env=False)
