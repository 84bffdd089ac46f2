"""Params of our plug-ins: read strictly enough that a mistake is told; secrets, and texts with values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from string import Template
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from engine.model.json import JSON
from engine.model.similar import near
from engine.plugins.base import PluginData

PREFIX = "ENGINE_PLUGIN_"  # of the environment variables that params may name
_MAX_FAULTS = 5


class Options(BaseModel):
    """Numbers may be given as text, as in the contract; an unknown name is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _listed(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Texts = Annotated[list[str], BeforeValidator(_listed)]  # a list, or texts with commas between them
M = TypeVar("M", bound=Options)


def read(kind: type[M], params: Mapping[str, JSON]) -> M:
    """Raises `ValueError` with all that is wrong in one line."""
    try:
        return kind.model_validate(dict(params))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        faults = [_told(item["type"], item["loc"], item["msg"], kind) for item in found[:_MAX_FAULTS]]
    raise ValueError("; ".join(faults))


def _told(fault: str, path: tuple[str | int, ...], message: str, kind: type[Options]) -> str:
    where = ".".join(map(str, path))
    if fault == "missing":
        return f"{where} is required"
    if fault == "extra_forbidden":
        return f"unknown parameter {where!r:.80}{near(str(path[-1]), kind.model_fields)}"
    message = message.removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def secret(value: str | None, variable: str | None) -> str | None:
    """The value, or that of the worker's environment variable. Raises `ValueError`."""
    if variable is None:
        return value
    if not variable.startswith(PREFIX):  # or whoever may submit tasks could send away any of them
        raise ValueError(f"the environment variable {variable!r:.80} is not one that begins with {PREFIX}")
    if variable not in os.environ:
        raise ValueError(f"the environment of this worker has no variable {variable}")
    return os.environ[variable]


# --- texts with values of the event in them


def template(text: str) -> str:
    """`text`, if all of its `${name}` are names of `values`. Raises `ValueError`."""
    parsed = Template(text)
    if not parsed.is_valid():
        raise ValueError("a dollar sign that begins no ${name}; write $$ for the sign itself")
    for name in parsed.get_identifiers():
        if name not in NAMES:
            raise ValueError(f"unknown name ${{{name:.80}}}{near(name, NAMES)}")
    return text


def filled(text: str, data: PluginData) -> str:
    return Template(text).safe_substitute(values(data))


def values(data: PluginData) -> dict[str, str]:
    """What texts can show of an event. What is not there is empty."""
    found = {**data.data, **data.to_json()}
    return {name: "" if found.get(name) is None else str(found[name]) for name in NAMES}


NAMES = (
    *("event", "workflow_id", "workflow_name", "instance_id", "task_id", "task_name", "status", "error"),
    *("error_code", "attempt", "total_tasks", "completed", "failed", "at", "delivery"),
)
