"""Bindings of plug-ins in a database."""

from __future__ import annotations

from engine.cli.local_answers import now
from engine.executors.plugin import plugins_of
from engine.executors.registry import ExecutorRegistry
from engine.model.plugins import Binding
from engine.operations import plugins
from engine.store.database import Database


class LocalPlugins:
    """The verbs of `engine.cli.plugin_verbs`."""

    database: Database

    @property
    def _registry(self) -> ExecutorRegistry:
        raise NotImplementedError

    def plugin_bindings(self) -> list[Binding]:
        return now(plugins.list_bindings(self.database))

    def bind_plugin(self, binding: Binding) -> Binding:
        [kept] = now(plugins.bind(self.database, binding, plugins=plugins_of(self._registry)))
        return kept

    def unbind_plugin(self, binding_id: str) -> None:
        now(plugins.unbind(self.database, binding_id))
