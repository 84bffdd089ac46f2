"""Graphs and tasks for commands that work without a server: the REST interfaces' own translation."""

from __future__ import annotations

import difflib
import re
from typing import Any

import msgspec
from litestar.exceptions import ClientException
from pydantic import BaseModel

from engine.api import run_translation
from engine.api.answers import FieldError, InvalidFields
from engine.api.execgo import translation
from engine.api.execgo.wire import GraphIn
from engine.api.run_wire import DependencyIn, RetryIn, RunIn, RunTaskIn
from engine.client.documents import Document, KeyPath
from engine.client.rest import ContractTask, is_execgo
from engine.errors import GraphError, InvalidInput
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Graph
from engine.model.records import Task
from engine.operations import runs

CONTRACT = translation.CONTRACT
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def graph_of(document: Document, registry: ExecutorRegistry) -> tuple[Graph, str | None]:
    """The checked graph, and the contract that its names belong to. Raises `InvalidInput` with the place."""
    check_shape(document)
    if is_execgo(document.value):
        graph, contract = _execgo_graph(document, registry), CONTRACT
    else:
        graph, contract = _native_graph(document, registry), None
    try:
        runs.check(graph, registry.kinds())
    except InvalidInput as error:
        raise type(error)(f"{document.source}: {error}") if isinstance(error, GraphError) else error from None
    return graph, contract


def check_shape(document: Document) -> None:
    if not isinstance(document.value, dict):
        raise document.error((), "a graph is an object with a list of tasks")
    if not isinstance(document.value.get("tasks"), list):
        raise document.error(("tasks",), "a graph needs `tasks`, a list")


def _native_graph(document: Document, registry: ExecutorRegistry) -> Graph:
    try:
        return run_translation.graph_of(run_translation.validate(RunIn, document.value), registry)
    except InvalidFields as error:
        raise InvalidInput("\n".join(str(_located(document, item)) for item in error.errors)) from None


def _located(document: Document, error: FieldError) -> InvalidInput:
    """The error at its place in the file; an unknown key gets the nearest known name."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in error.pointer.split("/")[1:]]
    path: KeyPath = tuple(int(step) if step.isdigit() else step for step in steps)
    message = error.message[:1].lower() + error.message[1:]
    if "Extra inputs" in error.message and path:
        message = f"unknown field {path[-1]!r}{_near(str(path[-1]), _model_at(path[:-1]))}"
    task = _task_name(document.value, path)
    return document.error(path, f"task {task!r}: {message}" if task else message)


def _model_at(path: KeyPath) -> type[BaseModel]:
    if "retry" in path:
        return RetryIn
    if "depends_on" in path:
        return DependencyIn
    return RunTaskIn if path[:1] == ("tasks",) else RunIn


def _near(name: str, model: type[BaseModel]) -> str:
    close = difflib.get_close_matches(name, model.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(model.model_fields)}"


def _task_name(value: Any, path: KeyPath) -> str | None:
    match path:
        case ("tasks", int(index), *_):
            task = value["tasks"][index]
            name = task.get("name") if isinstance(task, dict) else None
            return name[:80] if isinstance(name, str) else None
        case _:
            return None


def _execgo_graph(document: Document, registry: ExecutorRegistry) -> Graph:
    try:
        tasks = msgspec.convert(document.value, GraphIn).tasks
        body = msgspec.json.encode(document.value)
        return translation.graph_of(tasks, translation.Kinds.of(registry), body)
    except msgspec.ValidationError as error:
        found = _AT.match(str(error))
        assert found is not None
        path = tuple(int(index) if index else key for key, index in _STEP.findall(found["path"] or ""))
        raise document.error(path, found["what"][:1].lower() + found["what"][1:]) from None
    except ClientException as error:
        raise InvalidInput(f"{document.source}: {error.detail}") from None


# --- tasks of the ExecGo contract


def contract_task(task: Task, registry: ExecutorRegistry) -> ContractTask:
    """The task as `GET /tasks/{id}` answers it."""
    return ContractTask.of(msgspec.to_builtins(translation.task_out(task, translation.Kinds.of(registry))))


def filters(status: str | None, type_: str | None, registry: ExecutorRegistry) -> dict[str, Any]:
    """Arguments of `operations.tasks.list_aliased`. Raises `InvalidInput`."""
    wanted: dict[str, Any] = {}
    if status is not None:
        if status not in translation.FILTERS:
            raise InvalidInput(f"unknown status {status!r} (accepted: {', '.join(translation.FILTERS)})")
        wanted["states"], wanted["failed_before"] = translation.FILTERS[status]
    if type_ is not None:
        wanted["kinds"] = translation.Kinds.of(registry).of_type(type_)
    return wanted
