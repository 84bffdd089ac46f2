"""Every deliberate error of the engine. Each has a stable `code`; the message says what would be accepted.

EngineError
├── InvalidInput            the request itself is wrong; nothing was written
│   ├── GraphError          the graph breaks a rule
│   ├── UnknownKind         no executor performs this kind
│   └── TooLarge            a published limit is exceeded
├── NotFound                no such run, task, token …
├── Conflict                the thing exists, but its state forbids the action
│   └── IdempotencyMismatch the key was used before with another body
├── Overloaded              refused before acceptance; try again later
├── StoreUnavailable        the database cannot be reached or refused us
├── SchemaMismatch          the database schema is behind or ahead of this release
├── LeaseLost               the attempt is no longer ours; nothing was written
├── ServerUnavailable       no Task Engine answers at the given URL
├── AccessDenied            the server wants a token, or one with more rights
└── ConfigError             a setting is wrong; says which and what to do
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that the engine raises on purpose."""

    code = "engine_error"


class InvalidInput(EngineError):
    code = "invalid_input"


class GraphError(InvalidInput):
    code = "invalid_graph"


class UnknownKind(InvalidInput):
    """No executor is registered for `kind`; `available` lists those that are."""

    code = "unknown_kind"

    def __init__(self, kind: str, available: list[str]) -> None:
        self.kind = kind
        self.available = available
        super().__init__(f"unknown task type: {kind} (available: {', '.join(available)})")


class TooLarge(InvalidInput):
    code = "too_large"


class NotFound(EngineError):
    code = "not_found"


class Conflict(EngineError):
    code = "conflict"


class IdempotencyMismatch(Conflict):
    code = "idempotency_mismatch"


class Overloaded(EngineError):
    """Refused before anything was written; `retry_after` in seconds."""

    code = "overloaded"

    def __init__(self, message: str, retry_after: int = 5) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class StoreUnavailable(EngineError):
    """The database did not answer. Whether the last commit happened is unknown: look before repeating."""

    code = "store_unavailable"
    retry_after = 2


class SchemaMismatch(EngineError):
    code = "schema_mismatch"


class LeaseLost(EngineError):
    code = "lease_lost"


class ServerUnavailable(EngineError):
    """The server cannot be reached, or what answers is not a Task Engine.

    `is_unknown`: the request was sent, so whether it took effect is not known. Look before repeating it.
    """

    code = "server_unavailable"

    def __init__(self, message: str, *, is_unknown: bool = False) -> None:
        self.is_unknown = is_unknown
        super().__init__(message)


class AccessDenied(EngineError):
    """The server wants a token, or one with more rights."""

    code = "access_denied"


class ConfigError(EngineError):
    code = "config_error"
