"""`host:port` as clients write it."""

from __future__ import annotations

from engine.executors.text import shorten


def split_address(address: str) -> tuple[str, int]:
    """Host without brackets, and port. Raises `ValueError` in Go's words."""
    quoted = shorten(address, 200)
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        raise ValueError(f"address {quoted}: missing port in address")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"address {quoted}: too many colons in address")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= 65_535):
        raise ValueError(f"address {quoted}: invalid port, accepted are 1 to 65535")
    if not host.isprintable() or any(character in host for character in " []/@"):
        raise ValueError(f"address {quoted}: invalid host")
    return host, int(port)
