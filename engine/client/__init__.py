"""What talks to a running engine from outside: documents, and the typed REST client that sends them.

`Client` and its errors are loaded when first used: reading a document needs no HTTP library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.client.rest import Client as Client
    from engine.client.rest import ContractTask as ContractTask
    from engine.client.rest import Submitted as Submitted
    from engine.errors import AccessDenied as AccessDenied
    from engine.errors import ServerUnavailable as ServerUnavailable

_HOME_OF = {
    "Client": "engine.client.rest",
    "ContractTask": "engine.client.rest",
    "Submitted": "engine.client.rest",
    "AccessDenied": "engine.errors",
    "ServerUnavailable": "engine.errors",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOME_OF[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
