"""Bytes from outside made into text that every database can store."""

from __future__ import annotations

import codecs

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# For host names: their time grows with the square of the length, and the event loop would stand still.
_SLOW_CODECS = frozenset({"punycode", "idna"})


def readable(content: bytes, encoding: str = "utf-8") -> str:
    """Decode; what is no text in `encoding`, NUL included, becomes the replacement character."""
    try:
        name = codecs.lookup(encoding).name
        text = content.decode("utf-8" if name in _SLOW_CODECS else name, errors="replace")
    except (LookupError, ValueError):  # a codec we do not have, or one that is not for text
        text = content.decode("utf-8", errors="replace")
    return storable(text)


def storable(text: str) -> str:
    """`text` without NUL and lone surrogates, which Postgres refuses in JSON."""
    return text.replace("\x00", REPLACEMENT).encode("utf-8", errors="replace").decode()


def shorten(text: str, limit: int) -> str:
    """One printable line of at most `limit` characters, for messages that quote what a client sent."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def reason(error: Exception) -> str:
    """What went wrong in the operating system's words, lower case as Go prints them."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shorten(text[:1].lower() + text[1:] or type(error).__name__, 300)
