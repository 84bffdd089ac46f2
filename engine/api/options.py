"""What can be set on the API, and what its handlers share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from litestar.connection import Request, WebSocket

from engine.api.streams import Tail
from engine.executors.registry import ExecutorRegistry
from engine.operations.totals import Admission
from engine.store.database import Database

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
ANY_HOST = "*"

ApiRequest = Request[Any, Any, Any]
ApiSocket = WebSocket[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class ApiOptions:
    """`allowed_hosts` are the names (without port) that a `Host` header may give; `*` stands for any.

    `access_log`: `errors` logs answers from 400 up, `all` every request, `off` none. `max_connections` (below
    the 1024 files that a process may usually open), the two timeouts and the pings of sockets are kept by the
    server (`engine.api.server`), not by the application.
    """

    version: str
    started_at: datetime
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    require_token: bool = False
    bootstrap_token: str | None = None
    cors_origins: tuple[str, ...] = ()
    max_open_tasks: int = 1_000_000
    submit_body_bytes: int = 64 * 1024 * 1024
    body_bytes: int = 1024 * 1024
    max_connections: int = 800
    read_timeout_seconds: float = 15.0
    write_timeout_seconds: float = 30.0
    max_sockets: int = 400  # of `max_connections`
    max_sockets_each: int = 100  # with one token
    ping_seconds: float = 30.0
    access_log: Literal["errors", "all", "off"] = "errors"


@dataclass(slots=True)
class Services:
    """What a handler needs, found with `services_of(request)`."""

    database: Database
    registry: ExecutorRegistry
    options: ApiOptions
    admission: Admission
    tail: Tail
    is_stopping: bool = False  # long polls answer at once


def services_of(request: ApiRequest | ApiSocket) -> Services:
    services: Services = request.app.state.services
    return services


def actor_of(request: ApiRequest) -> str:
    """Who asks, for events and audit: `token:<id>` or `local`."""
    actor: str = request.scope["engine_actor"]  # type: ignore[typeddict-item]  # set by the edge
    return actor
