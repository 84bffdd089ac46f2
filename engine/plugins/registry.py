"""Which plug-in has which name: ours, those of installed packages, and those of the program."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from copy import copy
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Self

from engine.errors import ConfigError, InvalidInput
from engine.model.json import JSON
from engine.model.similar import near
from engine.plugins.base import Plugin
from engine.plugins.email import EmailPlugin
from engine.plugins.network import Network, OpenNetwork
from engine.plugins.sms import SmsPlugin
from engine.plugins.webhook import WebhookPlugin

GROUP = "engine.plugins"
_BUNDLED = (EmailPlugin, SmsPlugin, WebhookPlugin)
_OURS = "task-engine"
_KEPT = 100  # objects that have been initialised


class UnknownPlugin(InvalidInput):
    """No plug-in has this name here; another worker may have one."""

    code = "unknown_plugin"


class PluginRegistry:
    """One plug-in per name.

    A class is made and initialised for each different `params`. An object is taken as it is if a binding has
    no params; with params a copy of it is initialised with them.
    """

    def __init__(self, plugins: Iterable[Any] = ()) -> None:
        """Objects or classes."""
        self._plugins: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self._ready: OrderedDict[tuple[str, str], Plugin] = OrderedDict()
        for plugin in plugins:
            self.add(plugin)

    @classmethod
    def installed(cls, network: Network | None = None) -> Self:
        """Ours, which reach others by `network`, and those of installed packages. Raises `ConfigError`."""
        registry = cls()
        reach = network or OpenNetwork()
        for kind in _BUNDLED:
            registry.add(kind(reach), _OURS)  # copied, and initialised with the params of a binding
        for entry_point in sorted(entry_points(group=GROUP), key=lambda found: (_origin(found), found.name)):
            registry.add(_loaded(entry_point), _origin(entry_point))
        return registry

    def add(self, plugin: Any, origin: str | None = None) -> Self:
        """Register a plug-in; `origin` says in errors where it came from. Raises `ConfigError`."""
        origin = origin or _place(plugin)
        name = _checked_name(plugin, origin)
        if name in self._plugins:
            raise ConfigError(
                f'plug-in "{name}" is provided twice: by {self._origins[name]} and by {origin}; '
                "give one of them another name"
            )
        self._plugins[name] = plugin
        self._origins[name] = origin
        return self

    def names(self) -> list[str]:
        return sorted(self._plugins)

    def check(self, name: str, params: Mapping[str, JSON]) -> None:
        """Raise `InvalidInput` if there is no such plug-in, or it says that these params can never work.

        What a program has made and initialised itself needs no params.
        """
        found = self._find(name)
        look = getattr(found, "check", None)
        is_complete = not params and self._origins[name] != _OURS
        if isinstance(found, type) or not callable(look) or is_complete:
            return
        try:
            look(params)
        except ValueError as error:
            raise InvalidInput(f'plug-in "{name}": {error}') from None

    def ready(self, name: str, params: Mapping[str, JSON]) -> Plugin | None:
        """One that was initialised with these params before. Raises `UnknownPlugin`."""
        self._find(name)
        return self._ready.get(_key(name, params))

    def make(self, name: str, params: Mapping[str, JSON]) -> Plugin:
        """The plug-in, ready to be called. Raises `UnknownPlugin`, and what `init` does, which may block."""
        found = self._find(name)
        if isinstance(found, type):
            plugin: Plugin = found()
            plugin.init(params)
        elif params:
            plugin = copy(found)
            plugin.init(params)
        else:
            plugin = found
        self._ready[_key(name, params)] = plugin
        while len(self._ready) > _KEPT:
            self._ready.popitem(last=False)
        return plugin

    def _find(self, name: str) -> Any:
        if name not in self._plugins:
            raise UnknownPlugin(f'unknown plug-in "{name:.100}"{near(name, self._plugins)}')
        return self._plugins[name]

    def __contains__(self, name: object) -> bool:
        return name in self._plugins

    def __len__(self) -> int:
        return len(self._plugins)


def _key(name: str, params: Mapping[str, JSON]) -> tuple[str, str]:
    return name, json.dumps(params, sort_keys=True)


def _checked_name(plugin: Any, origin: str) -> str:
    name = getattr(plugin, "name", None)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ConfigError(f"the plug-in of {origin} has no name: `name` must be a text that is not blank")
    for method in ("init", "execute"):
        if not callable(getattr(plugin, method, None)):
            raise ConfigError(f'plug-in "{name}" of {origin} has no method {method}')
    return name


def _loaded(entry_point: EntryPoint) -> Any:
    try:
        return entry_point.load()
    except (Exception, SystemExit) as error:  # somebody else's module can raise anything
        raise ConfigError(
            f'plug-in "{entry_point.name}" of {_origin(entry_point)} cannot be loaded from '
            f"{entry_point.value}: {type(error).__name__}: {error}"
        ) from error


def _place(plugin: Any) -> str:
    kind = plugin if isinstance(plugin, type) else type(plugin)
    return f"{kind.__module__}.{kind.__qualname__}"


def _origin(entry_point: EntryPoint) -> str:
    if entry_point.dist is None:
        return "an unknown package"
    return f"{entry_point.dist.name} {entry_point.dist.version}"
