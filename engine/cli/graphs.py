"""Graphs and tasks for commands that work without a server: the REST interfaces' own translation."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.exceptions import ClientException

from engine.api import run_translation
from engine.api.answers import InvalidFields
from engine.api.bodies import fingerprint
from engine.api.execgo import translation
from engine.api.execgo.wire import GraphIn
from engine.api.run_wire import RunIn
from engine.cli import places
from engine.client.documents import Document
from engine.client.rest import ContractTask, is_execgo
from engine.errors import InvalidInput
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Graph
from engine.model.records import Task
from engine.operations import submits

CONTRACT = translation.CONTRACT


def graph_of(document: Document, registry: ExecutorRegistry) -> tuple[Graph, str | None]:
    """The checked graph, and the contract that its names belong to. Raises `InvalidInput` with the place."""
    check_shape(document)
    if is_execgo(document.value):
        graph, contract = _execgo_graph(document, registry), CONTRACT
    else:
        graph, contract = _native_graph(document, registry), None
    try:
        submits.check(graph, registry.kinds())
    except InvalidInput as error:
        raise places.of_rule(document, str(error)) from None
    return graph, contract


def key_of(document: Document, key: str) -> submits.Key:
    """As the server makes it of the same graph, so that a repeat is recognised whichever way it takes."""
    value: Any = document.value
    if is_execgo(value):
        return submits.Key("local POST /tasks", key, fingerprint(msgspec.convert(value, GraphIn).tasks or []))
    parts = [{**value, "tasks": None}, *value["tasks"]]
    return submits.Key("local POST /api/v1/runs", key, fingerprint(parts))


def check_shape(document: Document) -> None:
    if not isinstance(document.value, dict):
        raise document.error((), "a graph is an object with a list of tasks")
    if not isinstance(document.value.get("tasks"), list):
        raise document.error(("tasks",), "a graph needs `tasks`, a list")


def _native_graph(document: Document, registry: ExecutorRegistry) -> Graph:
    try:
        return run_translation.graph_of(run_translation.validate(RunIn, document.value), registry)
    except InvalidFields as error:
        located = (places.of_field(document, item.pointer, item.message) for item in error.errors)
        raise InvalidInput("\n".join(map(str, located))) from None


def _execgo_graph(document: Document, registry: ExecutorRegistry) -> Graph:
    try:
        tasks = msgspec.convert(document.value, GraphIn).tasks
        body = msgspec.json.encode(document.value)
        return translation.graph_of(tasks, translation.Kinds.of(registry), body)
    except msgspec.ValidationError as error:
        raise places.of_type(document, str(error)) from None
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
