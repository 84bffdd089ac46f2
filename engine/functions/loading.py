"""Functions from modules that settings name, for workers that are not part of a program."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

from engine.errors import ConfigError
from engine.functions.decorator import TaskFunction
from engine.functions.function import Function
from engine.functions.registry import FunctionRegistry


def load_functions(places: Iterable[str]) -> FunctionRegistry:
    """Import `package.module`, all tasks at its top, or `package.module:name`: a registry, a task, a list.

    Modules are looked for in the working directory, too, which a console script has not on its path.
    Raises `ConfigError` that says which place is wrong and why.
    """
    if isinstance(places, str):
        raise ConfigError(f"functions are a list of places, got the text {places!r}")
    if (here := os.getcwd()) not in sys.path and "" not in sys.path:
        sys.path.append(here)
    registry = FunctionRegistry()
    for place in places:
        for thing in _found(place):
            registry.include(thing) if isinstance(thing, FunctionRegistry) else registry.add(thing)
    return registry


def _found(place: str) -> list[Any]:
    module_name, _, name = place.partition(":")
    module = _imported(module_name, place)
    if name:
        return _things(_attribute(module, name, place), place)
    tasks = [value for value in vars(module).values() if isinstance(value, TaskFunction)]
    if not tasks:
        raise ConfigError(
            f'functions "{place}": no function in it is decorated with @task; a registry is named '
            f'as "{module_name}:registry"'
        )
    return tasks


def _imported(name: str, place: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f'functions "{place}": expected "package.module" or "package.module:name"')
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f'functions "{place}": there is no module {error.name} on the import path'
            ) from error
        raise ConfigError(f'functions "{place}": importing it failed: {error}') from error
    except (Exception, SystemExit) as error:  # somebody else's module can raise anything
        raise ConfigError(
            f'functions "{place}": importing it failed: {type(error).__name__}: {error}'
        ) from error


def _attribute(module: ModuleType, name: str, place: str) -> Any:
    if not hasattr(module, name):
        close = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ConfigError(f'functions "{place}": {module.__name__} has no {name}{hint}')
    return getattr(module, name)


def _things(value: Any, place: str) -> list[Any]:
    """A registry or functions, whichever of both `value` is."""
    if isinstance(value, FunctionRegistry | TaskFunction | Function):
        return [value]
    if isinstance(value, list | tuple | set):
        return list(value)
    if callable(value) and not isinstance(value, type):
        return [value]
    raise ConfigError(
        f'functions "{place}": expected a FunctionRegistry, a task or a list of tasks, '
        f"got {type(value).__name__}"
    )
