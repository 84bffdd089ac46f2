"""What may have been meant by a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from engine.model.graph import MAX_NAME

_FEW = 1_000  # names among which similar ones are looked for
_SHOWN = 10


def near(name: str, known: Iterable[str]) -> str:
    """To follow a message about an unknown name: the nearest known one, or some of those there are."""
    listed = sorted(each for each in known if 0 < len(each) <= MAX_NAME)
    close = difflib.get_close_matches(name[:MAX_NAME], listed, n=1) if len(listed) <= _FEW else []
    if close:
        return f'; did you mean "{close[0]}"?'
    shown = ", ".join(listed[:_SHOWN]) + (", …" if len(listed) > _SHOWN else "")
    return f" (known: {shown or 'none'})"
