"""The HTTP server: uvicorn inside our own event loop. Signals are the caller's matter."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import Callable, Generator
from pathlib import Path

import uvicorn
from litestar import Litestar

from engine.api.connection import Limits, protocol_with
from engine.api.options import ApiOptions, Services
from engine.api.socket_connection import MAX_MESSAGE_BYTES, PONG_SECONDS, SocketConnection
from engine.errors import ConfigError

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]  # not on every platform
_IDLE_SECONDS = 60
_BACKLOG = 2048


def new_event_loop() -> asyncio.AbstractEventLoop:
    """The fastest loop there is: `asyncio.Runner(loop_factory=new_event_loop)`."""
    return asyncio.new_event_loop() if uvloop is None else uvloop.new_event_loop()


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.is_ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


async def serve(
    app: Litestar,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    uds: Path | None = None,
    stop: asyncio.Event,
    grace_seconds: float = 15.0,
    on_ready: Callable[[int], object] | None = None,
) -> None:
    """Serve until `stop` is set; then take no more requests and give running ones `grace_seconds`.

    `on_ready` is called with the port once connections are accepted (0 for a Unix socket). With port 0 the
    system picks a free one. Raises `ConfigError` if the address cannot be used.
    """
    listener = _listen_unix(uds) if uds is not None else _listen(host, port)
    services: Services = app.state.services
    _adopt_log()
    server = _Server(
        uvicorn.Config(
            app,
            http=protocol_with(_limits(services.options)),
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE_SECONDS,
            timeout_graceful_shutdown=max(1, round(grace_seconds)),
            ws=SocketConnection,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=services.options.ping_seconds,
            ws_ping_timeout=PONG_SECONDS,
            ws_per_message_deflate=False,  # nothing comes that could be large after unpacking
        )
    )
    handle = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await _first(handle, server.is_ready)
        if on_ready is not None and not handle.done():
            on_ready(0 if uds is not None else listener.getsockname()[1])
        await _first(handle, stop)
    finally:
        services.is_stopping = True
        server.should_exit = True
        await handle
        listener.close()
        if uds is not None:
            await asyncio.to_thread(uds.unlink, missing_ok=True)


def _limits(options: ApiOptions) -> Limits:
    return Limits(
        options.read_timeout_seconds, options.write_timeout_seconds, connections=options.max_connections
    )


def _adopt_log() -> None:
    """What uvicorn has to say goes where our own events go, as JSON lines."""
    log = logging.getLogger("uvicorn.error")
    log.setLevel(logging.ERROR)
    if handlers := logging.getLogger("engine").handlers:
        log.handlers[:], log.propagate = handlers, False


async def _first(handle: asyncio.Task[None], event: asyncio.Event) -> None:
    """Wait until the server ends or `event` is set."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({handle, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and not host:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        advice = "; choose another with --port" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}{advice}") from None
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """A socket that only our own user can open. A stale file is replaced, one in use is not."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        os.chmod(path, 0o600)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from None
    return listener


def _remove_stale(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"cannot listen on {path}: it is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:  # of another user, for instance
            raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from None
    raise ConfigError(f"cannot listen on {path}: another server uses it")
