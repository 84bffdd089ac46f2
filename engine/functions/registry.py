"""Which function performs which name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

from engine.errors import ConfigError, UnknownFunction
from engine.functions.decorator import TaskFunction
from engine.functions.function import Function
from engine.model.json import JSON

MAX_LISTED = 20


class FunctionRegistry:
    """Functions by unique name. One that is registered again under its own name changes nothing."""

    def __init__(self, functions: Iterable[Any] = ()) -> None:
        """`functions` as for `add`, and whole registries."""
        self._functions: dict[str, Function] = {}
        for function in functions:
            self.include(function) if isinstance(function, FunctionRegistry) else self.add(function)

    def add(self, function: Any, **options: Any) -> Any:
        """Register a `@task` or a plain function, and return it: so this is a decorator, too.

        `options` of a plain function are those of `@task`. Raises `ConfigError` if another function has the
        name.
        """
        self._add(_function(function, options))
        return function

    def include(self, registry: FunctionRegistry) -> Self:
        """Register all functions of another registry."""
        for function in registry:
            self._add(function)
        return self

    def get(self, name: str) -> Function:
        """Raises `UnknownFunction`, which names those that are near."""
        try:
            return self._functions[name]
        except KeyError:
            message = f'unknown function "{name[:200]}"{self._near(name)}'
            raise UnknownFunction(message, name) from None

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that have no code here, each once, in order."""
        return [name for name in dict.fromkeys(names) if name not in self._functions]

    def describe(self) -> list[dict[str, JSON]]:
        """What there is to keep and show of each function, as JSON."""
        return [
            {
                "name": function.name,
                "description": function.description,
                "run_in": function.how.value,
                "origin": function.origin,
                "params": function.schema(),
                "options": function.options.said().to_json() or None,
            }
            for function in self
        ]

    def names(self) -> list[str]:
        return sorted(self._functions)

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def __iter__(self) -> Iterator[Function]:
        return (self._functions[name] for name in self.names())

    def __len__(self) -> int:
        return len(self._functions)

    def _add(self, function: Function) -> None:
        known = self._functions.setdefault(function.name, function)
        if known.call is not function.call:
            raise ConfigError(
                f'function "{function.name}" is registered twice: {known.origin}; and {function.origin}; '
                "give one of them another name"
            )

    def _near(self, name: str) -> str:
        if close := difflib.get_close_matches(name[:200], self._functions, n=3):
            return f"; did you mean {', '.join(close)}?"
        names = self.names()
        more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        return f" (registered: {', '.join(names[:MAX_LISTED]) or 'none'}{more})"


def _function(
    thing: TaskFunction[..., Any] | Function | Callable[..., Any], options: dict[str, Any]
) -> Function:
    if isinstance(thing, TaskFunction | Function):
        if options:
            raise ConfigError("what is a task already has its options; give them to @task")
        return thing.function if isinstance(thing, TaskFunction) else thing
    return Function.of(thing, **options)
