"""Which source a streaming task reads, and the network as its sources may use it."""

from __future__ import annotations

import functools
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import httpx

from engine.errors import InvalidInput, PermanentError
from engine.executors.base import ExecutorSettings
from engine.executors.network import PublicTransport, public_addresses
from engine.functions.function import Function, How
from engine.functions.registry import FunctionRegistry
from engine.model.json import JSON
from engine.model.realtime import CollectorMode, Endpoint, Protocol, RealtimeMode, RealtimeTask, RealtimeType
from engine.model.workflow_rules import no_source, reads_function
from engine.streams.http import HttpOptions, HttpSource
from engine.streams.ports import Call, CallFailed, Network, StreamStore
from engine.streams.postgres import ListenOptions, ListenSource, TableOptions, TableSource
from engine.streams.published import Published
from engine.streams.sources import Advanced, Collector, Item, Source, options_of
from engine.streams.tcp import TcpOptions, TcpSource
from engine.streams.websocket import WebSocketOptions, WebSocketSource

OFFSET = "offset"  # the argument that makes a function a source that can be replayed
SOURCE = "source"  # where `params` have the options of a bundled source
BUNDLED = ("listen", "table")

Iterate = Callable[[str, Mapping[str, JSON]], AsyncGenerator[Any, None]]


class TaskNetwork:
    """`streams.ports.Network`, with the operator's guard."""

    def __init__(self, settings: ExecutorSettings) -> None:
        self.is_guarded = not settings.allow_private_network
        self.body_bytes = settings.http_body_bytes

    async def addresses(self, host: str, port: int, /) -> list[str]:
        return await public_addresses(host, port) if self.is_guarded else [host]

    def transport(self) -> httpx.AsyncBaseTransport:
        plain = httpx.AsyncHTTPTransport(verify=_tls(), trust_env=False)
        return PublicTransport(plain) if self.is_guarded else plain


@functools.cache
def _tls() -> ssl.SSLContext:
    """Reading the certificates takes 20 ms: done once per process."""
    return httpx.create_ssl_context(trust_env=False)


@dataclass(frozen=True, slots=True)
class Parts:
    """What sources are made of. `iterate` runs a function that yields, `call` any other."""

    network: Network
    functions: FunctionRegistry
    services: Mapping[str, Any]
    iterate: Iterate
    call: Call
    store: StreamStore


def source_of(task: RealtimeTask, parts: Parts) -> Source | None:
    """None for a one-shot task that is only a call. Raises `InvalidInput`, `UnknownFunction`."""
    if task.collector is not None:
        return _collected(task, task.collector, parts)
    if task.endpoint is not None:
        return _connected(task, task.endpoint, parts.network)
    if task.mode is RealtimeMode.EVENT_DRIVEN:
        _refuse_options(task)
        return Published(parts.store)
    if task.function is not None and is_source(task, parts.functions.get(task.function)):
        _refuse_options(task)
        return _called(task, parts.functions.get(task.function), parts)
    if task.mode is RealtimeMode.ONE_SHOT:
        _refuse_options(task)
        return None
    raise InvalidInput(no_source(task.name))


def check_source(task: RealtimeTask, functions: FunctionRegistry) -> None:
    """Raises `InvalidInput` if it has none, as far as its functions say; and `UnknownFunction`."""
    if not reads_function(task):
        return
    if task.function is None or not is_source(task, functions.get(task.function)):
        raise InvalidInput(no_source(task.name))


def is_source(task: RealtimeTask, function: Function) -> bool:
    """Whether the task's function is where its items come from, rather than where they go."""
    if task.collector is not None or task.endpoint is not None or task.mode is RealtimeMode.EVENT_DRIVEN:
        return False
    if function.how is How.STREAM:
        return True
    has_handler = task.data_handler is not None or bool(task.subscriptions)
    polls = task.type is RealtimeType.SCHEDULED_POLLER
    return polls and (has_handler or task.mode is RealtimeMode.CONTINUOUS)


def _options(task: RealtimeTask) -> JSON:
    return task.params.get(SOURCE) if isinstance(task.params, dict) else None


def _refuse_options(task: RealtimeTask) -> None:
    if _options(task) is not None:
        raise InvalidInput("params.source: only sources of an endpoint, table and listen have options")


def _every(task: RealtimeTask) -> float | None:
    """Seconds between polls."""
    return None if task.mode is RealtimeMode.ONE_SHOT else task.flush_interval_ms / 1000


# --- endpoints


def _connected(task: RealtimeTask, endpoint: Endpoint, network: Network) -> Source:
    given, ends = _options(task), task.mode is RealtimeMode.ONE_SHOT
    match endpoint.protocol:
        case Protocol.WS | Protocol.WSS:
            return WebSocketSource(endpoint.url, options_of(WebSocketOptions, given), network, ends=ends)
        case Protocol.TCP:
            return TcpSource(endpoint.url, options_of(TcpOptions, given), network, ends=ends)
        case Protocol.HTTP:
            return HttpSource(endpoint.url, options_of(HttpOptions, given), network, every=_every(task))
        case _:
            assert_never(endpoint.protocol)


# --- collectors


def _collected(task: RealtimeTask, name: str, parts: Parts) -> Source:
    """A registered function, a service that has `items`, or a source of ours, in this order."""
    if name in parts.functions:
        _refuse_options(task)
        return _called(task, parts.functions.get(name), parts)
    service = parts.services.get(name)
    if service is not None and callable(getattr(service, "items", None)):
        _refuse_options(task)
        every = _every(task) if task.collector_mode is CollectorMode.PULL else None
        return Collector(name, service.items, bool(getattr(service, "replayable", False)), every)
    match name:
        case "table":
            options = options_of(TableOptions, _options(task))
            return TableSource(options, parts.network, every=_every(task))
        case "listen":
            return ListenSource(options_of(ListenOptions, _options(task)), parts.network)
        case _:
            raise InvalidInput(
                f'unknown collector "{name[:200]}": expected a registered function, a service that has '
                f"`items`, or one of {', '.join(BUNDLED)}"
            )


def _called(task: RealtimeTask, function: Function, parts: Parts) -> Source:
    """One that yields runs by itself, unless it is to be pulled; any other is called again and again."""
    takes_offset = OFFSET in function.signature.names
    polls = task.collector_mode is CollectorMode.PULL or task.type is RealtimeType.SCHEDULED_POLLER
    if function.how is How.STREAM:

        def opens(offset: JSON) -> AsyncIterator[Any]:
            return parts.iterate(function.name, {OFFSET: offset})

        return Collector(function.name, opens, takes_offset, _every(task) if polls else None)

    def asks(offset: JSON) -> AsyncIterator[Any]:
        return _polled(parts.call, function.name, offset)

    return Collector(function.name, asks, takes_offset, _every(task))


async def _polled(call: Call, name: str, offset: JSON) -> AsyncIterator[Any]:
    try:
        result = await call(name, {OFFSET: offset})
    except CallFailed as failure:
        if failure.is_permanent:
            raise PermanentError(str(failure)) from None
        raise
    for value in _values(result, offset):
        yield value


def _values(result: JSON, offset: JSON) -> Iterator[Any]:
    """A list is one item each, None is none; {'items': […], 'offset': …} is a page and where it ends."""
    if isinstance(result, dict) and result.keys() == {"items", "offset"}:
        page = list(result["items"])
        if not page:
            yield Advanced(result["offset"])
        for number, payload in enumerate(page, 1):
            # Until its last item is dealt with, the page is not: it would be read again.
            yield Item(payload, result["offset"] if number == len(page) else offset)
    elif isinstance(result, list):
        yield from result
    elif result is not None:
        yield result
