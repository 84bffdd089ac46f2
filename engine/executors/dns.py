"""Looks names up in the DNS (contract section 6)."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from pathlib import Path
from typing import ClassVar

import dns.asyncresolver
import dns.exception
import dns.resolver
from dns.rdatatype import AAAA, TXT, A, RdataType
from pydantic import Field

from engine.executors.address import split_address
from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.params import Params, ParamsExecutor
from engine.executors.text import readable, shorten
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Succeeded

RECORDS = ("ip", "txt", "cname")
DEFAULT_SECONDS = 10.0
SERVER_VARIABLE = "ENGINE_DNS_SERVER"  # address:port; without it, what /etc/resolv.conf says
HOSTS_FILE = Path("/etc/hosts")


class DnsParams(Params):
    required = ("name",)

    name: str = Field("", description="host name or address")
    record: str = Field(
        RECORDS[0],
        description="what to look up: addresses (IPv4 first), texts, or the end of a chain of aliases",
        json_schema_extra={"enum": [*RECORDS]},
    )

    @property
    def wanted(self) -> str:
        return self.record.strip().lower() or RECORDS[0]

    def require(self) -> None:
        if not self.name.strip():
            raise ValueError("name is required")
        if self.wanted not in RECORDS:
            sent = shorten(self.record, 100)
            raise ValueError(f'record must be one of: {", ".join(RECORDS)} (got "{sent}")')


class DnsExecutor(ParamsExecutor[DnsParams]):
    kind = "dns"
    params_type = DnsParams
    PREFIXES: ClassVar[dict[str, str]] = {"ip": "lookup host", "txt": "lookup txt", "cname": "lookup cname"}

    def __init__(
        self, settings: ExecutorSettings, *, server: str | None = None, hosts_file: Path = HOSTS_FILE
    ) -> None:
        super().__init__(settings)
        self._server = server or os.environ.get(SERVER_VARIABLE)
        self._hosts_file = hosts_file

    async def perform(self, context: TaskContext, params: DnsParams) -> Outcome:
        name = params.name.strip()
        left = context.seconds_left
        try:
            lookup = _Lookup(name, self._resolver(), DEFAULT_SECONDS if left is None else left)
            match params.wanted:
                case "ip":
                    found: JSON = {"addrs": self._local(name) or await lookup.addresses()}
                case "txt":
                    found = {"txt": await lookup.texts()}
                case _:
                    found = {"cname": await lookup.canonical_name()}
        except (dns.exception.DNSException, OSError, ValueError) as error:
            why = _reason(name, error)
            return Failed(f"{self.PREFIXES[params.wanted]}: lookup {shorten(name, 200)}: {why}")
        return Succeeded({"name": params.name, "record": params.wanted, **found})

    def _resolver(self) -> dns.asyncresolver.Resolver:
        if self._server is None:
            return dns.asyncresolver.Resolver()
        host, port = split_address(self._server)
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers, resolver.port = [host], port
        return resolver

    def _local(self, name: str) -> list[str]:
        """Addresses that need no server: literal ones, the hosts file, localhost (RFC 6761)."""
        try:
            return [str(ipaddress.ip_address(name))]
        except ValueError:
            wanted = name.rstrip(".").lower()
        found = _hosts(self._hosts_file, wanted)
        return found or (["127.0.0.1", "::1"] if wanted == "localhost" else [])


class _Lookup:
    """Questions about one name, all within the same number of seconds."""

    def __init__(self, name: str, resolver: dns.asyncresolver.Resolver, seconds: float) -> None:
        self._name = name
        self._resolver = resolver
        self._seconds = seconds

    async def addresses(self) -> list[str]:
        """IPv4 first. One family is enough; if neither is there, the error of the first is raised."""
        answers = await asyncio.gather(self._ask(A), self._ask(AAAA), return_exceptions=True)
        found = [
            item.to_text() for answer in answers if not isinstance(answer, BaseException) for item in answer
        ]
        for answer in answers:
            if not found and isinstance(answer, BaseException):
                raise answer
        if not found:
            raise ValueError("no such host")
        return found

    async def texts(self) -> list[str]:
        """One text per record, its parts joined."""
        answer = await self._ask(TXT)
        if not answer.rrset:
            raise ValueError("no such host")
        return [readable(b"".join(item.strings)) for item in answer]

    async def canonical_name(self) -> str:
        """Where the chain of aliases ends; the name itself, with its final dot, if it is no alias."""
        return (await self._ask(A)).canonical_name.to_text()

    async def _ask(self, record: RdataType) -> dns.resolver.Answer:
        return await self._resolver.resolve(
            self._name, record, raise_on_no_answer=False, lifetime=self._seconds, search=True
        )


def _hosts(path: Path, wanted: str) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    entries = (line.partition("#")[0].lower().split() for line in lines)
    return list(dict.fromkeys(entry[0] for entry in entries if wanted in entry[1:]))


def _reason(name: str, error: Exception) -> str:
    if isinstance(error, dns.resolver.NXDOMAIN):
        return "no such host"
    if isinstance(error, dns.exception.Timeout):
        return "i/o timeout"
    return shorten(str(error) or type(error).__name__, 300)
