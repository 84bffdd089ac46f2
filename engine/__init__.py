"""Task Engine: a durable DAG job engine. Tasks and edges are rows in Postgres or SQLite.

Names are loaded when first used: a worker's guardian process imports this package too and must stay small.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine import client as client
    from engine import errors as errors
    from engine import testing as testing
    from engine.errors import AccessDenied as AccessDenied
    from engine.errors import ConfigError as ConfigError
    from engine.errors import Conflict as Conflict
    from engine.errors import EngineError as EngineError
    from engine.errors import GraphError as GraphError
    from engine.errors import IdempotencyMismatch as IdempotencyMismatch
    from engine.errors import InvalidInput as InvalidInput
    from engine.errors import LeaseLost as LeaseLost
    from engine.errors import NotFound as NotFound
    from engine.errors import Overloaded as Overloaded
    from engine.errors import SchemaMismatch as SchemaMismatch
    from engine.errors import ServerUnavailable as ServerUnavailable
    from engine.errors import StoreUnavailable as StoreUnavailable
    from engine.errors import TooLarge as TooLarge
    from engine.errors import UnknownKind as UnknownKind
    from engine.executors.base import Executor as Executor
    from engine.executors.base import ExecutorSettings as ExecutorSettings
    from engine.executors.base import TaskContext as TaskContext
    from engine.executors.registry import ExecutorRegistry as ExecutorRegistry
    from engine.model.graph import Dependency as Dependency
    from engine.model.graph import Graph as Graph
    from engine.model.graph import Rule as Rule
    from engine.model.graph import TaskSpec as TaskSpec
    from engine.model.outcomes import Failed as Failed
    from engine.model.outcomes import Succeeded as Succeeded
    from engine.model.records import Event as Event
    from engine.model.records import LogLine as LogLine
    from engine.model.records import Run as Run
    from engine.model.records import Task as Task
    from engine.model.retry import Backoff as Backoff
    from engine.model.retry import RetryPolicy as RetryPolicy
    from engine.model.states import RunState as RunState
    from engine.model.states import TaskState as TaskState
    from engine.operations.submits import Accepted as Accepted
    from engine.sdk.blocking import SyncEngine as SyncEngine
    from engine.sdk.embedded import Engine as Engine
    from engine.sdk.graphs import graph as graph
    from engine.sdk.submit import submit as submit
    from engine.sdk.submit import submit_many as submit_many
    from engine.worker.options import WorkerOptions as WorkerOptions

__version__ = "0.1.0"


def load_when_used(
    package: str, homes: Mapping[str, Iterable[str]], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that exports names of other modules, and modules of its own.

    `homes` lists the names by the module that has them. Nothing is imported before it is asked for.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    own = vars(sys.modules[package])

    def load(name: str) -> Any:
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = own[name] = getattr(import_module(home_of[name]), name)
        return value

    return load, lambda: sorted({*own, *modules, *home_of})


_MODULES = ("client", "errors", "testing")
_HOMES = {
    "engine.errors": (
        "AccessDenied",
        "ConfigError",
        "Conflict",
        "EngineError",
        "GraphError",
        "IdempotencyMismatch",
        "InvalidInput",
        "LeaseLost",
        "NotFound",
        "Overloaded",
        "SchemaMismatch",
        "ServerUnavailable",
        "StoreUnavailable",
        "TooLarge",
        "UnknownKind",
    ),
    "engine.executors.base": ("Executor", "ExecutorSettings", "TaskContext"),
    "engine.executors.registry": ("ExecutorRegistry",),
    "engine.model.graph": ("Dependency", "Graph", "Rule", "TaskSpec"),
    "engine.model.outcomes": ("Failed", "Succeeded"),
    "engine.model.records": ("Event", "LogLine", "Run", "Task"),
    "engine.model.retry": ("Backoff", "RetryPolicy"),
    "engine.model.states": ("RunState", "TaskState"),
    "engine.operations.submits": ("Accepted",),
    "engine.sdk.blocking": ("SyncEngine",),
    "engine.sdk.embedded": ("Engine",),
    "engine.sdk.graphs": ("graph",),
    "engine.sdk.submit": ("submit", "submit_many"),
    "engine.worker.options": ("WorkerOptions",),
}

__getattr__, __dir__ = load_when_used(__name__, _HOMES, _MODULES)
