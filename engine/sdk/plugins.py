"""What an embedded engine does with plug-ins: which are there, and at which events they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.executors.base import ExecutorSettings
from engine.executors.plugin import network
from engine.model.plugins import Binding
from engine.operations import plugins
from engine.plugins.registry import PluginRegistry
from engine.store.database import Database

BindingLike = Binding | Mapping[str, Any]


def bindings_of(given: Iterable[BindingLike]) -> list[Binding]:
    """Raises `InvalidInput` for what is no binding."""
    return [each if isinstance(each, Binding) else Binding.of(each) for each in given]


def registry_of(given: Iterable[Any], settings: ExecutorSettings) -> PluginRegistry:
    """The installed plug-ins and those given. Raises `ConfigError`."""
    registry = PluginRegistry.installed(network(settings))
    for plugin in given:
        registry.add(plugin)
    return registry


def check_bindings(bindings: Iterable[Binding], known: PluginRegistry) -> None:
    """What can be said without a database. Raises `InvalidInput`."""
    for binding in bindings:
        plugins.check(binding, known)


async def bind(database: Database, bindings: Sequence[Binding], known: PluginRegistry) -> None:
    """Keep the bindings of a program that has these plug-ins. Raises as `operations.plugins.bind` does."""
    if bindings:
        await plugins.bind(database, *bindings, plugins=known)


class Plugins:
    """The verbs. `Engine` has them."""

    _plugins: tuple[Any, ...]
    _executor_settings: ExecutorSettings

    @property
    def _database(self) -> Database:
        raise NotImplementedError

    async def bind_plugin(self, *bindings: BindingLike, actor: str = "local") -> list[Binding]:
        """Call plug-ins at events of runs that start from now on. Each takes the place of one with its id:
        `{"plugin", "event", "condition"?, "params"?, "workflow_id"?, "id"?, "is_enabled"?}`.

        Raises `InvalidInput`, for a plug-in that is not here as well, and `NotFound` for a workflow.
        """
        known = registry_of(self._plugins, self._executor_settings)
        return await plugins.bind(self._database, *bindings_of(bindings), plugins=known, actor=actor)

    async def unbind_plugin(self, binding_id: str, *, actor: str = "local") -> None:
        """Raises `NotFound`."""
        await plugins.unbind(self._database, binding_id, actor=actor)

    async def plugin_bindings(self, workflow: str | None = None) -> list[Binding]:
        """By id; of a workflow, those to all workflows are among them."""
        return await plugins.list_bindings(self._database, workflow=workflow)
