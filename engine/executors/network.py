"""Which addresses tasks may connect to when the operator keeps them out of the private network.

A name is looked up once, and the connection goes to the address that was checked: a second answer of the
name server could be another.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import httpx

_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        "168.63.129.16/32",  # the host of a virtual machine at Azure
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and 6to4 hold an IPv4 address
    )
]
# Everything else, mapped and translated IPv4 addresses included, is not handed out to hosts.
_GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")


class NotPublic(OSError):
    """The name has an address that only the private network, the machine or its cloud can mean."""


def is_public(address: str) -> bool:
    """`ipaddress.is_global` is no help: it is true for NAT64, 6to4 and multicast, for instance."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 6 and parsed not in _GLOBAL_IPV6:
        return False
    return not any(parsed in network for network in _NOT_PUBLIC)


async def public_addresses(host: str, port: int) -> list[str]:
    """Every address of `host`. Raises `NotPublic` if one of them is not public, `OSError` if it has none."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address):
            raise NotPublic(
                f"{address} is not a public address; the operator can allow it with the setting "
                "allow_private_network"
            )
    return addresses


class PublicTransport(httpx.AsyncBaseTransport):
    """Sends requests to public addresses only. Each redirect is a request of its own."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        try:
            addresses = await public_addresses(host, request.url.port or 0)
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(str(error), request=request) from None
        for address in addresses[:-1]:
            try:
                return await self._inner.handle_async_request(_pinned(request, host, address))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._inner.handle_async_request(_pinned(request, host, addresses[-1]))

    async def aclose(self) -> None:
        await self._inner.aclose()


def _pinned(request: httpx.Request, host: str, address: str) -> httpx.Request:
    """To `address`, while header and certificate still mean `host`."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )
