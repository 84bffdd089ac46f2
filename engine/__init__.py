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
    from engine.definitions import from_yaml as from_yaml
    from engine.definitions import read_workflows as read_workflows
    from engine.definitions import to_yaml as to_yaml
    from engine.errors import AccessDenied as AccessDenied
    from engine.errors import AttemptInterrupted as AttemptInterrupted
    from engine.errors import ConfigError as ConfigError
    from engine.errors import Conflict as Conflict
    from engine.errors import EngineError as EngineError
    from engine.errors import EvaluatorUnavailable as EvaluatorUnavailable
    from engine.errors import ExpressionError as ExpressionError
    from engine.errors import GraphError as GraphError
    from engine.errors import IdempotencyMismatch as IdempotencyMismatch
    from engine.errors import InvalidArguments as InvalidArguments
    from engine.errors import InvalidCron as InvalidCron
    from engine.errors import InvalidExpression as InvalidExpression
    from engine.errors import InvalidInput as InvalidInput
    from engine.errors import InvalidZone as InvalidZone
    from engine.errors import LeaseLost as LeaseLost
    from engine.errors import NeverFires as NeverFires
    from engine.errors import NotFound as NotFound
    from engine.errors import Overloaded as Overloaded
    from engine.errors import ParamsError as ParamsError
    from engine.errors import PermanentError as PermanentError
    from engine.errors import RetryAfter as RetryAfter
    from engine.errors import SchemaMismatch as SchemaMismatch
    from engine.errors import ServerUnavailable as ServerUnavailable
    from engine.errors import StoreUnavailable as StoreUnavailable
    from engine.errors import TooLarge as TooLarge
    from engine.errors import UnknownFunction as UnknownFunction
    from engine.errors import UnknownKind as UnknownKind
    from engine.errors import UnresolvedReference as UnresolvedReference
    from engine.errors import WorkflowError as WorkflowError
    from engine.executors.base import Executor as Executor
    from engine.executors.base import ExecutorSettings as ExecutorSettings
    from engine.executors.base import ProcessLimits as ProcessLimits
    from engine.executors.base import TaskContext as TaskContext
    from engine.executors.registry import ExecutorRegistry as ExecutorRegistry
    from engine.functions.context import Context as Context
    from engine.functions.context import SyncContext as SyncContext
    from engine.functions.decorator import task as task
    from engine.functions.loading import load_functions as load_functions
    from engine.functions.registry import FunctionRegistry as FunctionRegistry
    from engine.model.graph import Compensation as Compensation
    from engine.model.graph import Dependency as Dependency
    from engine.model.graph import Graph as Graph
    from engine.model.graph import Limit as Limit
    from engine.model.graph import Rule as Rule
    from engine.model.graph import TaskSpec as TaskSpec
    from engine.model.outcomes import Failed as Failed
    from engine.model.outcomes import Succeeded as Succeeded
    from engine.model.parameters import Param as Param
    from engine.model.plugins import Binding as Binding
    from engine.model.plugins import PluginEvent as PluginEvent
    from engine.model.realtime import RealtimeTask as RealtimeTask
    from engine.model.records import Event as Event
    from engine.model.records import LogLine as LogLine
    from engine.model.records import Run as Run
    from engine.model.records import SavedWorkflow as SavedWorkflow
    from engine.model.records import Task as Task
    from engine.model.records import WorkflowRun as WorkflowRun
    from engine.model.retry import Backoff as Backoff
    from engine.model.retry import RetryPolicy as RetryPolicy
    from engine.model.run_defaults import RunDefaults as RunDefaults
    from engine.model.schedules import CatchUp as CatchUp
    from engine.model.schedules import Overlap as Overlap
    from engine.model.schedules import ScheduleSpec as ScheduleSpec
    from engine.model.states import RunState as RunState
    from engine.model.states import TaskState as TaskState
    from engine.model.workflows import Callback as Callback
    from engine.model.workflows import UndoFunction as UndoFunction
    from engine.model.workflows import Workflow as Workflow
    from engine.model.workflows import WorkflowTask as WorkflowTask
    from engine.operations.submits import Accepted as Accepted
    from engine.plugins.base import PluginData as PluginData
    from engine.sdk.authoring import workflow as workflow
    from engine.sdk.blocking import SyncEngine as SyncEngine
    from engine.sdk.builders import RealtimeTaskBuilder as RealtimeTaskBuilder
    from engine.sdk.builders import TaskBuilder as TaskBuilder
    from engine.sdk.builders import WorkflowBuilder as WorkflowBuilder
    from engine.sdk.contract import EngineBuilder as EngineBuilder
    from engine.sdk.contract import WorkflowEngine as WorkflowEngine
    from engine.sdk.embedded import Engine as Engine
    from engine.sdk.graphs import graph as graph
    from engine.sdk.recording import add_task as add_task
    from engine.sdk.submit import execute as execute
    from engine.sdk.submit import submit as submit
    from engine.sdk.submit import submit_many as submit_many
    from engine.worker.options import WorkerOptions as WorkerOptions

__version__ = "0.1.0"


def load_when_used(
    package: str, homes: Mapping[str, Iterable[str]], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that exports names of other modules, and modules of its own.

    `homes` lists the names by the module that has them. Nothing is imported before it is asked for. The names
    are its `__all__` as well, set where checkers of types, which could not tell them, do not look.
    """
    home_of = {name: home for home, names in homes.items() for name in names}
    own = vars(sys.modules[package])
    own["__all__"] = [*modules, *home_of]

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
    "engine.definitions": (
        "from_yaml",
        "read_workflows",
        "to_yaml",
    ),
    "engine.errors": (
        "AccessDenied",
        "AttemptInterrupted",
        "ConfigError",
        "Conflict",
        "EngineError",
        "EvaluatorUnavailable",
        "ExpressionError",
        "GraphError",
        "IdempotencyMismatch",
        "InvalidArguments",
        "InvalidCron",
        "InvalidExpression",
        "InvalidInput",
        "InvalidZone",
        "LeaseLost",
        "NeverFires",
        "NotFound",
        "Overloaded",
        "ParamsError",
        "PermanentError",
        "RetryAfter",
        "SchemaMismatch",
        "ServerUnavailable",
        "StoreUnavailable",
        "TooLarge",
        "UnknownFunction",
        "UnknownKind",
        "UnresolvedReference",
        "WorkflowError",
    ),
    "engine.executors.base": (
        "Executor",
        "ExecutorSettings",
        "ProcessLimits",
        "TaskContext",
    ),
    "engine.executors.registry": ("ExecutorRegistry",),
    "engine.functions.context": (
        "Context",
        "SyncContext",
    ),
    "engine.functions.decorator": ("task",),
    "engine.functions.loading": ("load_functions",),
    "engine.functions.registry": ("FunctionRegistry",),
    "engine.model.graph": (
        "Compensation",
        "Dependency",
        "Graph",
        "Limit",
        "Rule",
        "TaskSpec",
    ),
    "engine.model.outcomes": (
        "Failed",
        "Succeeded",
    ),
    "engine.model.parameters": ("Param",),
    "engine.model.plugins": (
        "Binding",
        "PluginEvent",
    ),
    "engine.model.realtime": ("RealtimeTask",),
    "engine.model.records": (
        "Event",
        "LogLine",
        "Run",
        "SavedWorkflow",
        "Task",
        "WorkflowRun",
    ),
    "engine.model.retry": (
        "Backoff",
        "RetryPolicy",
    ),
    "engine.model.run_defaults": ("RunDefaults",),
    "engine.model.schedules": (
        "CatchUp",
        "Overlap",
        "ScheduleSpec",
    ),
    "engine.model.states": (
        "RunState",
        "TaskState",
    ),
    "engine.model.workflows": (
        "Callback",
        "UndoFunction",
        "Workflow",
        "WorkflowTask",
    ),
    "engine.operations.submits": ("Accepted",),
    "engine.plugins.base": ("PluginData",),
    "engine.sdk.authoring": ("workflow",),
    "engine.sdk.blocking": ("SyncEngine",),
    "engine.sdk.builders": (
        "RealtimeTaskBuilder",
        "TaskBuilder",
        "WorkflowBuilder",
    ),
    "engine.sdk.contract": (
        "EngineBuilder",
        "WorkflowEngine",
    ),
    "engine.sdk.embedded": ("Engine",),
    "engine.sdk.graphs": ("graph",),
    "engine.sdk.recording": ("add_task",),
    "engine.sdk.submit": (
        "execute",
        "submit",
        "submit_many",
    ),
    "engine.worker.options": ("WorkerOptions",),
}

__getattr__, __dir__ = load_when_used(__name__, _HOMES, _MODULES)
