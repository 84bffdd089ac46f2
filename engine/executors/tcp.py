"""Opens a TCP connection and closes it again: is the service reachable? (contract section 6)"""

from __future__ import annotations

import asyncio
import contextlib

from pydantic import Field

from engine.executors.address import split_address
from engine.executors.base import TaskContext
from engine.executors.network import public_addresses
from engine.executors.params import Params, ParamsExecutor
from engine.executors.text import reason, shorten
from engine.model.outcomes import Failed, Outcome, Succeeded

DEFAULT_TIMEOUT_MS = 5_000
MAX_TIMEOUT_MS = 60_000


class TcpParams(Params):
    required = ("address",)

    address: str = Field("", description="`host:port`, an IPv6 address in brackets")
    timeout_ms: int = Field(
        DEFAULT_TIMEOUT_MS,
        description="longest time for the connection, in milliseconds; 0 or less is the default",
        json_schema_extra={"maximum": MAX_TIMEOUT_MS},
    )

    def require(self) -> None:
        if not self.address.strip():
            raise ValueError("address is required (host:port)")
        if self.timeout_ms > MAX_TIMEOUT_MS:
            raise ValueError(f"timeout_ms exceeds max of {MAX_TIMEOUT_MS} ms")

    @property
    def seconds(self) -> float:
        return (self.timeout_ms if self.timeout_ms > 0 else DEFAULT_TIMEOUT_MS) / 1000


class TcpExecutor(ParamsExecutor[TcpParams]):
    kind = "tcp"
    params_type = TcpParams

    async def perform(self, context: TaskContext, params: TcpParams) -> Outcome:
        try:
            host, port = split_address(params.address.strip())
        except ValueError as error:
            return Failed(f"tcp dial: {error}")
        why = await self._dial(host or "localhost", port, params.seconds)
        if why is not None:
            return Failed(f"tcp dial: dial tcp {shorten(params.address, 200)}: {why}")
        return Succeeded({"ok": True, "address": params.address})

    async def _dial(self, host: str, port: int, seconds: float) -> str | None:
        """Why the connection could not be made, or None if it could."""
        try:
            async with asyncio.timeout(seconds):
                writer = await self._open(host, port)
        except TimeoutError:
            return "i/o timeout"
        except (OSError, UnicodeError) as error:  # a host name that is too long is a UnicodeError
            return reason(error)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return None

    async def _open(self, host: str, port: int) -> asyncio.StreamWriter:
        addresses = [host] if self.settings.allow_private_network else await public_addresses(host, port)
        for address in addresses[:-1]:
            with contextlib.suppress(OSError):
                return (await asyncio.open_connection(address, port))[1]
        return (await asyncio.open_connection(addresses[-1], port))[1]
