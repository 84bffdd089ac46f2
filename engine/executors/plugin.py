"""Calls plug-ins: each call is a task of its own, tried again as its policy says."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import httpx
from pydantic import Field

from engine.errors import ConfigError
from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.network import PublicTransport, public_addresses
from engine.executors.params import Params, ParamsExecutor
from engine.executors.registry import ExecutorRegistry
from engine.executors.threads import Threads
from engine.functions.perform import failed
from engine.functions.results import to_json
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome, Succeeded, elsewhere
from engine.model.plugins import KIND
from engine.plugins.base import Plugin, PluginData
from engine.plugins.network import Network, OpenNetwork
from engine.plugins.registry import PluginRegistry, UnknownPlugin


class PluginParams(Params):
    required = ("plugin",)

    plugin: str = Field("", description="the name that it is registered under")
    params: dict[str, Any] = Field({}, description="what it is initialised with")
    data: dict[str, Any] = Field({}, description="the event, as bindings tell of it: `event`, `workflow` …")

    def require(self) -> None:
        if not self.plugin.strip():
            raise ValueError("plugin is required")


def from_settings(settings: ExecutorSettings) -> PluginExecutor:
    """The entry point: our plug-ins and those of installed packages."""
    return PluginExecutor(settings, PluginRegistry.installed(network(settings)))


class PluginExecutor(ParamsExecutor[PluginParams]):
    """Params are `{"plugin": name, "params": {…}, "data": {…}}`. Plug-ins that block run in threads."""

    kind: ClassVar[str] = KIND
    category: ClassVar[str] = "plugin"
    params_type = PluginParams

    def __init__(self, settings: ExecutorSettings, plugins: PluginRegistry) -> None:
        super().__init__(settings)
        self.plugins = plugins
        self._threads = Threads(settings.threads, "plugin")

    @property
    def overdue(self) -> int:
        """Threads whose attempts are over: they keep their slots."""
        return self._threads.overdue

    async def close(self) -> None:
        """Let idle threads end."""
        self._threads.close()

    async def perform(self, context: TaskContext, params: PluginParams) -> Outcome:
        try:
            data = PluginData.of(params.data, context.lease.idempotency_key)
            _refuse_secrets(context.lease.client, params.params)
            plugin = await self._ready(params.plugin, params.params)
        except UnknownPlugin as error:
            if _is_bound(context.lease.client):  # whoever bound it has it
                return elsewhere(await context.given_back(error.code), str(error), error.code)
            return Failed(str(error), code=error.code)
        except (ConfigError, ValueError) as error:
            return Failed(str(error), code="invalid_params", is_permanent=True)
        try:
            return Succeeded(to_json(await self._call(plugin, data)))
        except Exception as error:  # whatever it does
            return failed(error, context.log)

    async def _ready(self, name: str, params: Mapping[str, JSON]) -> Plugin:
        ready = self.plugins.ready(name, params)
        return ready or await self._in_thread(partial(self.plugins.make, name, params))

    async def _call(self, plugin: Plugin, data: PluginData) -> Any:
        if inspect.iscoroutinefunction(plugin.execute):
            return await plugin.execute(data)
        return await self._in_thread(partial(plugin.execute, data))

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        # What is printed and logged is captured by a context variable, which threads do not inherit.
        future = self._threads.start(partial(contextvars.copy_context().run, work))
        ended: asyncio.Future[Any] = asyncio.wrap_future(future)
        try:
            return await asyncio.shield(ended)
        finally:
            if not ended.done():
                self._threads.give_up(future)
                ended.cancel()


def _refuse_secrets(client: JSON, params: Mapping[str, JSON]) -> None:
    """Bindings are made by administrators. Whoever may only submit tasks could have a secret sent to them."""
    if _is_bound(client):
        return
    if named := sorted(name for name in params if name.endswith("_env")):
        raise ValueError(f"{', '.join(named)}: only a binding may name a secret of the worker's environment")


def _is_bound(client: JSON) -> bool:
    return isinstance(client, dict) and "binding" in client


# --- the network


def network(settings: ExecutorSettings) -> Network:
    """What the operator lets tasks reach."""
    return OpenNetwork() if settings.allow_private_network else _PublicNetwork()


class _PublicNetwork(OpenNetwork):
    """Public addresses only, as for `http` and `tcp` tasks."""

    def transport(self) -> httpx.AsyncBaseTransport:
        return PublicTransport(super().transport())

    async def addresses(self, host: str, port: int) -> list[str]:
        return await public_addresses(host, port)


# --- for those who bind


def plugins_of(registry: ExecutorRegistry) -> PluginRegistry | None:
    """The plug-ins that this process could call; None if it calls none."""
    executor = registry.get(KIND) if KIND in registry else None
    return executor.plugins if isinstance(executor, PluginExecutor) else None
