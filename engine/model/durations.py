"""Durations as people write them: `500ms`, `45s`, `2m30s`, `1h`. The unit is part of the text, as in Go."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_MS = 2**31 - 1  # 24 days: what the columns of waits hold
MAX_TIMEOUT_MS = 365 * 86_400_000

_MAX_LENGTH = 40
_MS = {
    "ns": Fraction(1, 1_000_000),
    "us": Fraction(1, 1_000),
    "µs": Fraction(1, 1_000),
    "μs": Fraction(1, 1_000),
    "ms": Fraction(1),
    "s": Fraction(1_000),
    "m": Fraction(60_000),
    "h": Fraction(3_600_000),
}
_PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
_PARTS = re.compile(_PART)
_WHOLE = re.compile(f"(?:{_PART})+")


def parse_ms(text: str) -> int:
    """Milliseconds, not negative. Raises `ValueError`."""
    if text == "0":
        return 0
    if len(text) > _MAX_LENGTH or not _WHOLE.fullmatch(text):
        raise ValueError(f'"{text[:_MAX_LENGTH]}" is not a duration; write 500ms, 45s, 2m30s or 1h')
    total = sum((Fraction(number) * _MS[unit] for number, unit in _PARTS.findall(text)), Fraction(0))
    if total.denominator != 1:
        raise ValueError(f'"{text}" is finer than a millisecond')
    return int(total)


def format_ms(milliseconds: int) -> str:
    """The text that `parse_ms` reads as `milliseconds`."""
    seconds, rest = divmod(milliseconds, 1_000)
    if rest:
        return f"{milliseconds}ms"
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{count}{unit}" for count, unit in parts if count) or "0s"
