"""What talks to a running engine from outside: documents, and the typed REST client that sends them.

`Client` and its errors are loaded when first used: reading a document needs no HTTP library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine import load_when_used

if TYPE_CHECKING:
    from engine.client.rest import Client as Client
    from engine.client.rest import ContractTask as ContractTask
    from engine.client.rest import Submitted as Submitted
    from engine.errors import AccessDenied as AccessDenied
    from engine.errors import ServerUnavailable as ServerUnavailable

_HOMES = {
    "engine.client.rest": ("Client", "ContractTask", "Submitted"),
    "engine.errors": ("AccessDenied", "ServerUnavailable"),
}

__getattr__, __dir__ = load_when_used(__name__, _HOMES)
