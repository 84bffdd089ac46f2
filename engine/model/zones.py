"""Time zones by their IANA name. A name is looked up in the list of zones and never opened as a path."""

from __future__ import annotations

import re
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from engine.errors import InvalidZone

# Listed, but nothing one can mean: the first is whatever this machine is set to, the second "not set yet".
_NOT_PORTABLE = {"localtime", "Factory"}


def zone_named(name: str) -> ZoneInfo:
    """The zone of that exact name. Raises `InvalidZone`.

    `Etc/GMT+3` is a zone, and its sign is that of POSIX: three hours *behind* UTC, -03:00.
    """
    if name not in _names():
        raise InvalidZone(f"unknown time zone {name[:60]!r} (accepted: {_advice(name)})")
    return ZoneInfo(name)


@cache
def _names() -> frozenset[str]:
    """Read once a process: a newer time zone database counts from the next start."""
    return frozenset(available_timezones() - _NOT_PORTABLE)


def _advice(name: str) -> str:
    if re.match(r"(utc|gmt)?[+-]\d", name, re.IGNORECASE):
        return "names such as Europe/Berlin; a fixed UTC+1 is Etc/GMT-1, whose sign is reversed"
    meant = [known for known in _names() if known.lower() == name.strip().lower()]
    return f"did you mean {meant[0]}?" if meant else "IANA names such as UTC or Europe/Berlin"
