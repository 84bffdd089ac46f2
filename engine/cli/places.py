"""Where in its file an error about a graph stands: checks name paths, people look for line and column."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel

from engine.api.run_wire import DependencyIn, RetryIn, RunIn, RunTaskIn
from engine.client.documents import Document, KeyPath
from engine.errors import InvalidInput

_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")


def of_field(document: Document, pointer: str, message: str) -> InvalidInput:
    """The error at a JSON pointer; an unknown key gets the nearest known name."""
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]
    path: KeyPath = tuple(int(step) if step.isdigit() else step for step in steps)
    message = message[:1].lower() + message[1:]
    if "extra inputs" in message and path:
        message = f"unknown field {path[-1]!r}{_near(str(path[-1]), _model_at(path[:-1]))}"
    task = _task_name(document.value, path)
    return document.error(path, f"task {task!r}: {message}" if task else message)


def of_type(document: Document, message: str) -> InvalidInput:
    """The error of a wrongly typed value, whose message ends in its path: `… - at `$.tasks[0].id``."""
    found = _AT.match(message)
    assert found is not None
    path = tuple(int(index) if index else key for key, index in _STEP.findall(found["path"] or ""))
    return document.error(path, found["what"][:1].lower() + found["what"][1:])


def of_answer(document: Document, text: str) -> InvalidInput:
    """The error that a server's refusal of the document tells in its own words."""
    if text.startswith("/"):
        parts = (part.partition(": ") for part in re.split(r"; (?=/)", text))
        return InvalidInput("\n".join(str(of_field(document, where, what)) for where, _, what in parts))
    if text.startswith("invalid JSON: "):
        return of_type(document, text.removeprefix("invalid JSON: "))
    return InvalidInput(f"{document.source}: {text}")


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
