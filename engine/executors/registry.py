"""Which executor performs which kind. Ours and everyone else's enter through the same entry points."""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Self

from engine.errors import ConfigError, UnknownKind
from engine.executors.base import Executor, ExecutorSettings
from engine.executors.text import shorten
from engine.model.json import JSON
from engine.model.placeholders import is_open
from engine.model.workflows import FUNCTION

GROUP = "engine.executors"
MAX_UNKNOWN = 10  # names; a suggestion for every one of thousands would take seconds


class ExecutorRegistry:
    """One executor per kind; two that claim the same kind are a `ConfigError`, as is one that would block."""

    def __init__(self) -> None:
        self._executors: dict[str, Executor] = {}
        self._origins: dict[str, str] = {}
        self._schemas: dict[str, dict[str, Any]] = {}  # made when first asked for

    @classmethod
    def from_entry_points(cls, settings: ExecutorSettings) -> Self:
        """Make every installed executor once. Raises `ConfigError` naming the package at fault."""
        registry = cls()
        found = [(_origin(entry_point), entry_point) for entry_point in entry_points(group=GROUP)]
        for origin, entry_point in sorted(found, key=lambda each: (each[0], each[1].name)):
            if (executor := _make(entry_point, settings)) is not None:
                registry.add(executor, origin)
        if not registry._executors:
            raise ConfigError(
                f"no executors are installed (entry-point group {GROUP}); install the engine with pip, "
                "a source folder on the import path is not enough"
            )
        return registry

    @classmethod
    def from_executors(cls, executors: Iterable[Executor]) -> Self:
        registry = cls()
        for executor in executors:
            registry.add(executor, f"{type(executor).__module__}:{type(executor).__qualname__}")
        return registry

    def add(self, executor: Executor, origin: str) -> None:
        """Register `executor`; `origin` says in errors where it came from. Raises `ConfigError`."""
        kind = executor.kind
        if not inspect.iscoroutinefunction(executor.execute):
            name = f"{type(executor).__module__}.{type(executor).__qualname__}"
            raise ConfigError(
                f'{name}.execute must be `async def` (executor kind "{kind}", provided by {origin}); '
                "it may give what blocks to `await asyncio.to_thread(…)`"
            )
        if kind in self._executors:
            raise ConfigError(
                f'executor kind "{kind}" is provided twice: by {self._origins[kind]} and by {origin}; '
                "uninstall one of them or give it another kind"
            )
        self._executors[kind] = executor
        self._origins[kind] = origin

    def get(self, kind: str) -> Executor:
        """Raises `UnknownKind`, which lists the kinds that exist."""
        try:
            return self._executors[kind]
        except KeyError:
            raise UnknownKind(kind, self.kinds()) from None

    def schema(self, kind: str) -> dict[str, Any]:
        """JSON Schema of the kind's parameters: what its executor's `schema()` says, else that of any object.

        Executors need not have that method. Raises `UnknownKind`.
        """
        if kind not in self._schemas:
            describe = getattr(self.get(kind), "schema", None)
            self._schemas[kind] = describe() if callable(describe) else {"type": "object"}
        return self._schemas[kind]

    def unknown(self, kind: str, params: JSON) -> dict[str, str]:
        """Names at the top of `params` that the kind would ignore, each with a message.

        At most `MAX_UNKNOWN`. Empty if the executor gives no schema, or one that lists no properties or
        allows others (`additionalProperties`). Raises `UnknownKind`.
        """
        schema = self.schema(kind)
        known = schema.get("properties", {})
        if not isinstance(params, dict) or not known or schema.get("additionalProperties"):
            return {}
        unknown = itertools.islice((name for name in params if name not in known), MAX_UNKNOWN)
        return {name: f'unknown parameter "{shorten(name, 100)}"{_near(name, known)}' for name in unknown}

    def problem(self, kind: str, params: JSON) -> str | None:
        """What is wrong with parameters that may hold placeholders, as far as it can be told.

        None also of a kind that is not here. Only functions are asked about values that are `is_open`.
        """
        if kind not in self:
            return None
        found = [*self.unknown(kind, params).values()]
        if kind == FUNCTION or not is_open(params):
            try:
                self.get(kind).check(params)
            except ValueError as error:
                found.append(str(error))
            except Exception as error:  # validators of users' types can raise anything
                found.append(f"{type(error).__name__}: {error}")
        return "; ".join(found) or None

    def functions(self) -> list[dict[str, JSON]]:
        """What there is to keep and show of functions that executors call, as `FunctionRegistry.describe`."""
        return [described for each in self for described in getattr(each, "describe", list)()]

    def kinds(self) -> list[str]:
        return sorted(self._executors)

    def __contains__(self, kind: object) -> bool:
        return kind in self._executors

    def __iter__(self) -> Iterator[Executor]:
        return (self._executors[kind] for kind in self.kinds())

    def __len__(self) -> int:
        return len(self._executors)


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:100], known, n=1)
    return f'; did you mean "{close[0]}"?' if close else f" (known: {', '.join(known)})"


def _make(entry_point: EntryPoint, settings: ExecutorSettings) -> Executor | None:
    """None if there is nothing for it to do with these settings."""
    try:
        executor: Executor | None = entry_point.load()(settings)
        if executor is not None:
            _check_shape(executor)
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:  # a plug-in's import and constructor can raise anything
        raise ConfigError(
            f'executor "{entry_point.name}" of {_origin(entry_point)} cannot be loaded '
            f"from {entry_point.value}: {type(error).__name__}: {error}"
        ) from error
    return executor


def _check_shape(executor: Executor) -> None:
    for name in ("kind", "category"):
        if not isinstance(getattr(executor, name, None), str) or not getattr(executor, name).strip():
            raise TypeError(f"{type(executor).__name__}.{name} must be a text that is not blank")
    for name in ("check", "execute"):
        if not callable(getattr(executor, name, None)):
            raise TypeError(f"{type(executor).__name__} has no method {name}")


def _origin(entry_point: EntryPoint) -> str:
    if entry_point.dist is None:
        return "an unknown package"
    return f"{entry_point.dist.name} {entry_point.dist.version}"
