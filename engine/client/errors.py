"""What can go wrong between a client and a server, besides the server's own answers."""

from __future__ import annotations

from engine.errors import EngineError


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
