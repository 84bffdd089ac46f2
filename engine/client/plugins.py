"""The client's verbs of plug-ins: which are called at which events."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from engine.client.answers import rows, typed
from engine.client.transport import Transport
from engine.model.plugins import Binding

BINDINGS = "/api/v1/plugins/bindings"
_PAGE = 500


class Plugins:
    """Raises the engine's errors. All of it needs a token with the scope admin, where tokens are needed."""

    _transport: Transport

    def plugin_bindings(self) -> list[Binding]:
        """By id."""
        found: list[Binding] = []
        while True:
            answer = self._transport.get(BINDINGS, limit=_PAGE, offset=len(found) or None)
            page = rows(answer, "bindings", Binding)
            found += page
            if len(page) < _PAGE:
                return found

    def bind_plugin(self, binding: Binding) -> Binding:
        """It takes the place of one with its id. Raises `InvalidInput`, `NotFound`."""
        document: dict[str, Any] = {
            "id": binding.id,
            "plugin": binding.plugin,
            "event": str(binding.event),
            "condition": binding.condition,
            "params": dict(binding.params),
            "workflow_id": binding.workflow_id,
            "is_enabled": binding.is_enabled,
        }
        return typed(self._transport.send("POST", BINDINGS, document), Binding)

    def unbind_plugin(self, binding_id: str) -> None:
        """Raises `NotFound`."""
        self._transport.request("DELETE", f"{BINDINGS}/{quote(binding_id, safe='')}")
