"""Servers on loopback that answer as tests need it."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class TcpServer:
    """Accepts connections; `address` is `127.0.0.1:<port>`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            await self.talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say nothing and hang up."""


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    is_endless: bool = False


class HttpServer(TcpServer):
    """Answers each request with what `routes` makes of it; keeps the requests."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls)
        self.requests: list[Request] = []
        self.hung_up = asyncio.Event()
        self.routes: dict[str, Callable[[Request], Answer]] = {
            "/hello": lambda request: Answer(body="grüße".encode(), headers={"X-Kind": "test"}),
            "/missing": lambda request: Answer(status=404, body=b"no"),
            "/zip": lambda request: Answer(
                body=gzip.compress(b"x" * 50_000_000), headers={"Content-Encoding": "gzip"}
            ),
            "/broken-zip": lambda request: Answer(body=b"nope", headers={"Content-Encoding": "gzip"}),
            "/latin": lambda request: Answer(
                body="é".encode("latin-1"), headers={"Content-Type": "text/plain; charset=latin-1"}
            ),
            "/strange": lambda request: Answer(
                body=b"\xff\x00ok", headers={"Content-Type": "text/plain; charset=hex"}
            ),
            "/loop": lambda request: Answer(status=302, headers={"Location": "/loop"}),
            "/away": lambda request: Answer(status=302, headers={"Location": "file:///etc/passwd"}),
            "/moved": lambda request: Answer(status=302, headers={"Location": "/hello"}),
            "/endless": lambda request: Answer(is_endless=True),
        }

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read_request(reader)
        self.requests.append(request)
        answer = self.routes[request.path](request)
        head = {"Connection": "close", **answer.headers}
        if not answer.is_endless:
            head["Content-Length"] = str(len(answer.body))
        lines = [f"HTTP/1.1 {answer.status} Fine", *(f"{name}: {value}" for name, value in head.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode() + answer.body)
        await writer.drain()
        try:
            while answer.is_endless:
                writer.write(b"y" * 65_536)
                await writer.drain()
        except ConnectionError:
            self.hung_up.set()


async def _read_request(reader: asyncio.StreamReader) -> Request:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Request(method, path, headers, await reader.readexactly(int(headers.get("content-length", 0))))


class DnsServer(asyncio.DatagramProtocol):
    """Answers from `zone`: (name, type) to records in text form. Names outside do not exist."""

    def __init__(self, zone: dict[tuple[str, str], list[str]], *, is_silent: bool = False) -> None:
        self.zone = zone
        self.is_silent = is_silent

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self._transport.get_extra_info("sockname")[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if not self.is_silent:
            self._transport.sendto(self._answer(dns.message.from_wire(data)).to_wire(), addr)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        question = query.question[0]
        name, kind = question.name.to_text(), dns.rdatatype.to_text(question.rdtype)
        if not any(known == name for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        for target in self.zone.get((name, "CNAME"), []):
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
            name = target
        for text in self.zone.get((name, kind), []):
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, text))
        return answer
