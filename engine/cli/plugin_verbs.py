"""What a target can do with plug-ins."""

from __future__ import annotations

from typing import Protocol

from engine.model.plugins import Binding


class Plugins(Protocol):
    def plugin_bindings(self) -> list[Binding]: ...
    def bind_plugin(self, binding: Binding) -> Binding: ...
    def unbind_plugin(self, binding_id: str) -> None: ...
