"""Who may do what: one table of routes, tokens, and the guard against foreign web pages.

A loopback address is no trust boundary: without the checks of `Host` and `Origin` any page in the
operator's browser could submit shell tasks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import time
from dataclasses import dataclass

from engine.api.answers import Refusal
from engine.api.options import ANY_HOST, ApiOptions
from engine.operations import tokens
from engine.store.database import Database

OPEN = "open"
_ADMIN = "admin"
_SECRET = re.compile(rb"te_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")
_LOOKUPS = 2
_FRESH_SECONDS = 10.0
_TOUCH_SECONDS = 60.0
_MAX_REMEMBERED = 10_000

# Every route there is, and which scope it needs. What is not here is not served; a test compares.
SCOPES: dict[tuple[str, str], str] = {
    ("GET", "/"): OPEN,
    ("GET", "/health"): OPEN,
    ("GET", "/ready"): OPEN,
    ("GET", "/metrics"): "read",
    ("GET", "/metrics/prometheus"): "read",
    ("GET", "/schema"): "read",
    ("GET", "/schema/openapi.json"): "read",
    ("POST", "/tasks"): "submit",
    ("GET", "/tasks"): "read",
    ("GET", "/tasks/{task_id}"): "read",
    ("DELETE", "/tasks/{task_id}"): "control",
    ("POST", "/tasks/{task_id}/cancel"): "control",
    ("GET", "/mcp/tools"): "read",
    ("POST", "/mcp/call"): "submit",
    ("GET", "/mcp/tasks/{handle}"): "read",
    ("GET", "/adapters/capabilities"): "read",
    ("GET", "/adapters/tools"): "read",
    ("POST", "/adapters/translate"): "read",
    ("POST", "/adapters/actions"): "submit",
    ("POST", "/api/v1/runs"): "submit",
    ("GET", "/api/v1/runs"): "read",
    ("GET", "/api/v1/runs/{run_id}"): "read",
    ("DELETE", "/api/v1/runs/{run_id}"): "control",
    ("GET", "/api/v1/runs/{run_id}/tasks"): "read",
    ("GET", "/api/v1/runs/{run_id}/tasks/{name}"): "read",
    ("GET", "/api/v1/runs/{run_id}/logs"): "read",
    ("GET", "/api/v1/runs/{run_id}/events"): "read",
    ("POST", "/api/v1/runs/{run_id}/pause"): "control",
    ("POST", "/api/v1/runs/{run_id}/resume"): "control",
    ("POST", "/api/v1/runs/{run_id}/cancel"): "control",
    ("POST", "/api/v1/runs/{run_id}/retry"): "control",
    ("GET", "/api/v1/runs/{run_id}/signals"): "read",
    ("POST", "/api/v1/runs/{run_id}/signals/{name}"): "control",
    ("GET", "/api/v1/runs/{run_id}/saga"): "read",
    ("POST", "/api/v1/runs/{run_id}/saga/retry"): "control",
    ("POST", "/api/v1/runs/{run_id}/saga/skip"): "control",
    ("POST", "/api/v1/runs/{run_id}/saga/sign-off"): "control",
    ("POST", "/api/v1/workflows"): "submit",
    ("GET", "/api/v1/workflows"): "read",
    ("GET", "/api/v1/workflows/{workflow_id}"): "read",
    ("DELETE", "/api/v1/workflows/{workflow_id}"): "control",
    ("POST", "/api/v1/workflows/{workflow_id}/execute"): "submit",
    ("GET", "/api/v1/workflows/{workflow_id}/history"): "read",
    ("GET", "/api/v1/workflows/{workflow_id}/versions"): "read",
    ("GET", "/api/v1/workflows/{workflow_id}/versions/{version}"): "read",
    ("GET", "/api/v1/workflows/{workflow_id}/definition"): "read",
    ("POST", "/api/v1/workflows/{workflow_id}/enable"): "control",
    ("POST", "/api/v1/workflows/{workflow_id}/disable"): "control",
    ("GET", "/api/v1/schedules"): "read",
    ("POST", "/api/v1/schedules"): "submit",
    ("GET", "/api/v1/schedules/{schedule_id}"): "read",
    ("PATCH", "/api/v1/schedules/{schedule_id}"): "control",
    ("DELETE", "/api/v1/schedules/{schedule_id}"): "control",
    ("POST", "/api/v1/schedules/{schedule_id}/trigger"): "submit",
    ("GET", "/api/v1/schedules/{schedule_id}/next"): "read",
    ("GET", "/api/v1/functions"): "read",
    ("GET", "/api/v1/instances"): "read",
    ("GET", "/api/v1/instances/{instance_id}"): "read",
    ("GET", "/api/v1/instances/{instance_id}/tasks"): "read",
    ("GET", "/api/v1/instances/{instance_id}/logs"): "read",
    ("POST", "/api/v1/instances/{instance_id}/pause"): "control",
    ("POST", "/api/v1/instances/{instance_id}/resume"): "control",
    ("POST", "/api/v1/instances/{instance_id}/cancel"): "control",
    ("POST", "/api/v1/instances/{instance_id}/retry"): "control",
    ("POST", "/api/v1/instances/{instance_id}/rerun"): "submit",
    ("POST", "/api/v1/instances/{instance_id}/events"): "control",
    ("GET", "/api/v1/workers"): "read",
    ("GET", "/api/v1/limits"): "read",
    ("PUT", "/api/v1/limits/{key}"): "control",
    ("DELETE", "/api/v1/limits/{key}"): "control",
    ("GET", "/api/v1/tokens"): _ADMIN,
    ("POST", "/api/v1/tokens"): _ADMIN,
    ("GET", "/api/v1/plugins/bindings"): _ADMIN,
    ("POST", "/api/v1/plugins/bindings"): _ADMIN,
    ("DELETE", "/api/v1/plugins/bindings/{binding_id}"): _ADMIN,
    ("DELETE", "/api/v1/tokens/{token_id}"): _ADMIN,
}

# The same for WebSockets. All are below one path, where HTTP has nothing.
SOCKET_ROOT = "/api/v1/ws/"
SOCKETS: dict[str, str] = {
    "/api/v1/ws/instances/{instance_id}": "read",
    "/api/v1/ws/workflows/{workflow_id}": "read",
}
BEARER = "bearer"  # the subprotocol after which browsers send a token
_WS = "WS"


class Denied(Exception):
    """The request ends here, with this refusal."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal


def scope_of(method: str, path: str) -> str | None:
    """The scope that a request needs, None if there is no such route."""
    found = SCOPES.get((method, path))
    if found is not None:
        return found
    parts = path.split("/")
    return next(
        (scope for verb, template, scope in _TEMPLATES if verb == method and _fits(template, parts)), None
    )


def socket_scope_of(path: str) -> str | None:
    """The scope that a WebSocket needs, None if there is none."""
    return scope_of(_WS, path)


def methods_at(path: str) -> list[str]:
    """What can be done at a path; empty if there is nothing."""
    parts = path.split("/")
    found = {verb for verb, template, _ in _TEMPLATES if verb != _WS and _fits(template, parts)}
    return sorted(found | ({"HEAD"} if "GET" in found else set()) | ({"OPTIONS"} if found else set()))


_TEMPLATES = [
    *((verb, path.split("/"), scope) for (verb, path), scope in SCOPES.items()),
    *((_WS, path.split("/"), scope) for path, scope in SOCKETS.items()),
]


def _fits(template: list[str], parts: list[str]) -> bool:
    return len(template) == len(parts) and all(
        expected.startswith("{") or expected == part for expected, part in zip(template, parts, strict=True)
    )


# --- tokens


@dataclass(frozen=True, slots=True)
class Bearer:
    """Who presented a valid token."""

    actor: str
    scopes: frozenset[str]
    token_id: str | None


_BOOTSTRAP = Bearer("token:bootstrap", frozenset({_ADMIN}), None)
_UNAUTHENTICATED = Refusal(
    401,
    "unauthenticated",
    "a valid bearer token is required",
    {"www-authenticate": 'Bearer realm="task-engine"'},
)


class Access:
    """Recognises tokens, and remembers them for at most ten seconds: so long a revoked one may live on."""

    def __init__(self, database: Database, options: ApiOptions) -> None:
        self._database = database
        self._bootstrap = options.bootstrap_token.encode() if options.bootstrap_token else None
        self._known: dict[bytes, tuple[float, Bearer]] = {}
        self._touched: dict[str, float] = {}
        self._handles: set[asyncio.Task[None]] = set()
        self._lookups = asyncio.Semaphore(_LOOKUPS)  # a flood of wrong tokens leaves connections to others

    async def require(self, authorization: bytes | None, scope: str | None) -> str:
        """The actor behind a request that is allowed; without a scope any token will do.

        Raises `Denied`: 401 or 403.
        """
        if scope == OPEN:
            return "local"
        bearer = await self._recognise(authorization)
        if bearer is None:
            raise Denied(_UNAUTHENTICATED)
        if scope is not None and not {scope, _ADMIN} & bearer.scopes:
            raise Denied(Refusal(403, "forbidden", f"the token lacks the scope {scope}"))
        self._touch(bearer)
        return bearer.actor

    async def _recognise(self, authorization: bytes | None) -> Bearer | None:
        scheme, _, secret = (authorization or b"").partition(b" ")
        secret = secret.strip(b" ")
        if scheme.lower() != b"bearer":
            return None
        if self._bootstrap is not None and hmac.compare_digest(secret, self._bootstrap):
            return _BOOTSTRAP
        if not _SECRET.fullmatch(secret):
            return None
        digest = hashlib.sha256(secret).digest()
        until, bearer = self._known.get(digest, (0.0, None))
        if bearer is not None and time.monotonic() < until:
            return bearer
        self._known.pop(digest, None)
        async with self._lookups:
            token = await tokens.recognise(self._database, secret.decode())
        if token is None:
            return None
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        bearer = Bearer(f"token:{token.id}", frozenset(token.scopes), token.id)
        self._known[digest] = (time.monotonic() + _FRESH_SECONDS, bearer)
        return bearer

    def _touch(self, bearer: Bearer) -> None:
        """Note that a token was used, at most once a minute and without making the request wait."""
        if bearer.token_id is None:
            return
        now = time.monotonic()
        if now - self._touched.get(bearer.token_id, float("-inf")) < _TOUCH_SECONDS:
            return
        self._touched[bearer.token_id] = now
        handle = asyncio.create_task(self._write_touch(bearer.token_id))
        self._handles.add(handle)
        handle.add_done_callback(self._handles.discard)

    async def _write_touch(self, token_id: str) -> None:
        try:
            await tokens.touch(self._database, token_id)
        except Exception:  # the request itself was fine; the next minute tries again
            self._touched.pop(token_id, None)

    async def close(self) -> None:
        """Wait for what is still being written."""
        await asyncio.gather(*self._handles, return_exceptions=True)


# --- web pages


class Browser:
    """Refuses what only a web page of somebody else would send. Decides by headers alone."""

    def __init__(self, options: ApiOptions) -> None:
        self._hosts = frozenset(name.lower().encode() for name in options.allowed_hosts)
        self._any_host = ANY_HOST in options.allowed_hosts
        self._origins = frozenset(origin.encode() for origin in options.cors_origins)

    def check(self, headers: dict[bytes, bytes], *, has_host: bool, is_navigation: bool) -> None:
        """Raises `Denied` (403, or 400 for a request that names no host at all)."""
        host = headers.get(b"host", b"")
        if not self._any_host and (has_host or host):
            if not host:
                raise Denied(Refusal(400, "bad_request", "the Host header is missing"))
            if _name_of(host) not in self._hosts:
                raise Denied(_foreign("the Host header names a host that is not this server"))
        origin = headers.get(b"origin")
        if origin is not None:
            if not self.knows(origin) and not _is_same(origin, host):
                raise Denied(_foreign("requests from pages of other origins are not accepted"))
        elif headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") and not is_navigation:
            raise Denied(_foreign("requests from pages of other sites are not accepted"))

    def knows(self, origin: bytes) -> bool:
        """Whether the operator listed this origin."""
        return origin in self._origins


def _foreign(detail: str) -> Refusal:
    return Refusal(403, "forbidden", detail)


def _name_of(host: bytes) -> bytes:
    """`localhost:8080` → `localhost`, `[::1]:8080` → `[::1]`; what is neither stays whole."""
    name, colon, port = host.rpartition(b":")
    if colon and port.isdigit() and (b":" not in name or name.endswith(b"]")):
        return name.lower()
    return host.lower()


def _is_same(origin: bytes, host: bytes) -> bool:
    return bool(host) and origin in (b"http://" + host, b"https://" + host)
