"""Where `ServerUnavailable` and `AccessDenied` were before; they are in `engine.errors`."""

from engine.errors import AccessDenied, ServerUnavailable

__all__ = ["AccessDenied", "ServerUnavailable"]
