"""Where in its file an error about a graph stands: checks name paths, people look for line and column."""

from __future__ import annotations

import difflib
import graphlib
import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from engine.api.run_wire import DependencyIn, RetryIn, RunIn, RunTaskIn
from engine.client.documents import Document, KeyPath
from engine.errors import InvalidInput

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_CYCLE = "cycle detected in task graph"
_MAX_CHAIN = 20  # names of a cycle that are written out
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def of_field(document: Document, pointer: str, message: str) -> InvalidInput:
    """The error at a JSON pointer; an unknown key gets the nearest known name."""
    if pointer == "/tasks" and (broken := _broken_rule(document, message)):
        return broken
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    path: KeyPath = tuple(int(step) if step.isdigit() else step for step in steps)
    message = message[:1].lower() + message[1:]
    if "extra inputs" in message and path:
        message = f"unknown field {path[-1]!r}{_near(str(path[-1]), _model_at(path[:-1]))}"
    task = _task_name(document.value, path)
    message = _with_field(path, message)
    return document.error(path, f"task {task!r}: {message}" if task else message)


def of_type(document: Document, message: str) -> InvalidInput:
    """The error of a wrongly typed value, whose message ends in its path: `… - at `$.tasks[0].id``."""
    found = _AT.match(message)
    assert found is not None
    path = tuple(int(index) if index else key for key, index in _STEP.findall(found["path"] or ""))
    message = found["what"][:1].lower() + found["what"][1:]
    return document.error(path, _with_field(path, message))


def of_rule(document: Document, message: str) -> InvalidInput:
    """The error of a graph that breaks a rule, at the task that the message names. A cycle is written out."""
    return _broken_rule(document, message) or InvalidInput(f"{document.source}: {message}")


def _broken_rule(document: Document, message: str) -> InvalidInput | None:
    names, types = _each(document, "name", "id"), _each(document, "kind", "type")
    if message == _CYCLE:
        cycle = _cycle(document, names)
        return document.error(("tasks", names.index(cycle[0])), f"{message}: {_chain(cycle)}")
    # From the end, because of two tasks with one name the second is the one too many.
    for index in reversed(range(len(names))):
        if message == f'duplicate task id: "{names[index]}"' or message.startswith(f'task "{names[index]}"'):
            return document.error(("tasks", index), message)
        if message.startswith(f"unknown task type: {types[index]} "):
            return document.error(("tasks", index), message)
    return None


def of_answer(document: Document, text: str) -> InvalidInput:
    """The error that a server's refusal of the document tells in its own words."""
    if text.startswith("/"):
        parts = (part.partition(": ") for part in re.split(r"; (?=/)", text))
        return InvalidInput("\n".join(str(of_field(document, where, what)) for where, _, what in parts))
    if text.startswith("invalid JSON: "):
        return of_type(document, text.removeprefix("invalid JSON: "))
    return of_rule(document, text)


def _with_field(path: KeyPath, message: str) -> str:
    """With the field's name in front, unless the message has it already."""
    field = path[2:] if path[:1] == ("tasks",) else path
    named = [step for step in field if isinstance(step, str)]
    if not named or named[-1] in message:
        return message
    return f"{'.'.join(map(str, field))}: {message}"


def _each(document: Document, *keys: str) -> list[Any]:
    """The first of `keys` that each task has."""
    value: Any = document.value
    return [next((task[key] for key in keys if key in task), None) for task in value["tasks"]]


def _cycle(document: Document, names: list[Any]) -> list[str]:
    """Names along one cycle in the order they would run; the first is also the last."""
    needed = _each(document, "depends_on")
    upstream = {name: _upstream(items or ()) for name, items in zip(names, needed, strict=True)}
    try:
        graphlib.TopologicalSorter(upstream).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    raise AssertionError("a graph that was refused for its cycle has none")


def _upstream(items: Iterable[Any]) -> list[str]:
    return [item["name"] if isinstance(item, dict) else item for item in items]


def _chain(names: list[str]) -> str:
    if len(names) > _MAX_CHAIN:
        names = [*names[: _MAX_CHAIN - 2], f"… {len(names) - _MAX_CHAIN + 1} more …", names[-1]]
    return " → ".join(names)


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
        case ("tasks", int(index), *_) if index < len(value["tasks"]):
            task = value["tasks"][index]
            name = task.get("name") if isinstance(task, dict) else None
            return name[:80] if isinstance(name, str) else None
        case _:
            return None
