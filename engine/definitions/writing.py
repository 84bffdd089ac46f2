"""Workflows as YAML that reads as equal workflows. Only what differs from a default is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RepresenterError, SafeRepresenter

from engine.definitions.environment import has_variable
from engine.definitions.translation import TASK_KEYS, WORKFLOW_KEYS
from engine.errors import InvalidInput, WorkflowError
from engine.model import shapes
from engine.model.durations import format_ms
from engine.model.json import JSON
from engine.model.parameters import Param
from engine.model.realtime import RealtimeTask
from engine.model.workflows import FUNCTION, Workflow, WorkflowTask

_PLAIN = re.compile(r"\w[\w./@+-]*( [\w./@+-]+)*", re.ASCII)
_OLD_BOOLEANS = {"y", "n", "yes", "no", "on", "off"}  # of YAML 1.1, which many readers still follow
_FREE = {"params", "labels", "limits", "result_mapping"}


def to_yaml(workflows: Workflow | Iterable[Workflow]) -> str:
    """One document. Tasks name their functions themselves, without jobs.

    Where a placeholder could be taken for an environment variable, the document says that it has none. Raises
    `WorkflowError` for fields of wrong types.
    """
    listed = list(workflows) if isinstance(workflows, Iterable) else [workflows]
    for workflow in listed:
        _require_workflow(workflow)
    definitions = [_definition(workflow) for workflow in listed]
    document: dict[str, JSON] = {"definitions": definitions}
    pairs = zip(listed, definitions, strict=True)
    if any(has_variable(text, workflow.params) for workflow, one in pairs for text in _texts(one)):
        document = {"environment": False, **document}
    stream = StringIO()
    try:
        _yaml().dump({"workflows": document}, stream)
    except RepresenterError as error:
        raise InvalidInput(f"a workflow holds JSON alone: {error}") from None
    return stream.getvalue()


def _require_workflow(given: object) -> None:
    if not isinstance(given, Workflow):
        raise InvalidInput(
            "YAML is made of engine.Workflow (of a function decorated with @workflow, its definition()), "
            f"got {given!r:.80}"
        )
    if wrong := shapes.faults_of(given):
        raise WorkflowError(wrong)


def _definition(workflow: Workflow) -> dict[str, JSON]:
    document = shapes.to_json(workflow)
    names = {WORKFLOW_KEYS.get(key, key): value for key, value in document.items()}
    if workflow.params:
        names["params"] = {name: _param(param) for name, param in workflow.params.items()}
    for key, tasks in (("tasks", workflow.tasks), ("realtime_tasks", workflow.realtime_tasks)):
        names.pop(key, None)
        if tasks:
            names[key] = [_task(task) for task in tasks]
    return names


def _param(param: Param) -> JSON:
    document = shapes.to_json(param)
    is_short = document.keys() <= {"default"} and not isinstance(param.default, Mapping)
    return param.default if is_short else document


def _task(task: WorkflowTask | RealtimeTask) -> JSON:
    document: Any = _renamed(shapes.to_json(task))
    if isinstance(task, WorkflowTask) and task.compensation is not None and task.compensation.params is None:
        document["compensation"] = task.compensation.function
    if document.get("kind") == FUNCTION:
        del document["kind"]
    return document


def _renamed(value: JSON) -> JSON:
    """With the keys of the format; durations as text."""
    if isinstance(value, list):
        return [_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        TASK_KEYS.get(key, key): item
        if key in _FREE
        else format_ms(item)
        if key.endswith("_ms")
        else _renamed(item)
        for key, item in value.items()
    }


def _texts(value: JSON) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # typed by its default, None
    yaml.width = 2**31
    return yaml


class _Representer(SafeRepresenter):
    """Text stands without quotes only if it is plain words, and by lines where it has lines.

    The emitter quotes those of them that would be read as a number, a date or another value.
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def text(self, text: str) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=_style(text))


def _style(text: str) -> str | None:
    if _PLAIN.fullmatch(text) and text.lower() not in _OLD_BOOLEANS:
        return None
    lines = text.removesuffix("\n").split("\n")
    is_script = len(lines) > 1 and all(line.isprintable() and line == line.strip() for line in lines)
    return "|" if is_script and all(lines) else '"'


_Representer.add_representer(str, _Representer.text)
