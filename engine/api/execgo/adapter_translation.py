"""Agent actions become tasks (contract section 8). Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.exceptions import ClientException
from msgspec import UNSET

from engine.api.answers import shorten
from engine.api.execgo.wire import AdapterRequestIn, GraphIn, TaskIn

SCHEMA = "adapter.v1"
PROFILES = ["generic", "claudecode", "codex", "openclaw"]
GRAPH = "task_graph.submit"

# name, action kind, category, description, aliases
TOOLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "execgo.os.shell",
        "os.shell",
        "os",
        "Run a command from the whitelist, or a script",
        ("shell", "bash", "terminal.command"),
    ),
    (
        "execgo.os.file",
        "os.file",
        "os",
        "Read, write, append, delete or stat a file",
        ("file.read", "file.write"),
    ),
    ("execgo.os.http", "os.http", "os", "Send an HTTP request", ("http.request",)),
    ("execgo.os.dns", "os.dns", "os", "Look up a name", ()),
    ("execgo.os.tcp", "os.tcp", "os", "Probe a TCP address", ()),
    ("execgo.os.sleep", "os.sleep", "os", "Wait", ()),
    ("execgo.os.noop", "os.noop", "os", "Do nothing", ()),
    ("execgo.runtime.command", "runtime.command", "runtime", "Run a program in the runtime", ("command",)),
    ("execgo.runtime.script", "runtime.script", "runtime", "Run a script in the runtime", ("script",)),
    ("execgo.mcp.call", "mcp.call", "mcp", "Call an MCP tool", ()),
    ("execgo.cli.run", "cli.run", "cli-skills", "Run a program without a shell", ()),
    ("execgo.task_graph.submit", GRAPH, "task-dsl", "Submit a graph of tasks", ()),
)
ACTION_KINDS = [tool[1] for tool in TOOLS]
NOTES = [
    "kinds are trimmed and case-insensitive",
    "parameters are checked when a task is executed",
    "runtime kinds need an executor for the type runtime",
]
_KINDS: dict[str, str] = {
    **{kind: kind for kind in ACTION_KINDS},
    **{alias: tool[1] for tool in TOOLS for alias in tool[4]},
    **{bare: f"os.{bare}" for bare in ("noop", "dns", "tcp", "sleep")},
}
_PASSED = ("limits", "sandbox", "policy", "control_context")


@dataclass(frozen=True, slots=True)
class Translated:
    source_kind: str
    kind: str
    adapter: str
    tasks: list[TaskIn]


def translate(request: AdapterRequestIn) -> Translated:
    """Raises `ClientException` (400), text `invalid adapter action: …`."""
    source = (request.action.kind or "").strip()
    if not source:
        raise _invalid("action.kind is required")
    kind = _KINDS.get(source.lower())
    if kind is None:
        raise _invalid(f'unknown action kind "{shorten(source, 100)}"')
    adapter = (request.adapter or "").strip().lower() or PROFILES[0]
    tasks = _graph_tasks(request) if kind == GRAPH else [_task(request, source.lower(), kind, adapter)]
    return Translated(source, kind, adapter, tasks)


def _task(request: AdapterRequestIn, source: str, kind: str, adapter: str) -> TaskIn:
    action, notes = request.action, _annotations(request, kind, adapter)
    type_, tool_name, category, values = _target(request, source, kind, notes)
    return TaskIn(
        id=_task_id(request, kind),
        type=type_,
        tool_name=tool_name,
        input=values,
        execution_category=category,
        depends_on=action.depends_on,
        retry=action.retry,
        timeout=action.timeout,
        annotations=notes,
    )


def _target(
    request: AdapterRequestIn, source: str, kind: str, notes: Mapping[str, str]
) -> tuple[str, str | None, str, Any]:
    """Type, tool name, category and input of the task."""
    family, _, tool = kind.partition(".")
    match family:
        case "os":
            return "os", tool, "os", _os_input(request.action.input, source)
        case "mcp":
            return "mcp", _mcp_tool(request), "mcp", request.action.input
        case "cli":
            return "cli-skills", "cli.run", "cli-skills", request.action.input
        case _:
            return "runtime", kind, "runtime", _runtime_input(request, tool, notes)


def _os_input(values: Any, source: str) -> Any:
    if source in ("file.read", "file.write"):
        given = {} if values is UNSET or values is None else _object(values)
        return {"action": source.partition(".")[2], **given}
    return values


def _mcp_tool(request: AdapterRequestIn) -> str:
    values = request.action.input
    inner = values.get("tool_name") if isinstance(values, dict) else None
    name = request.action.tool_name or (inner if isinstance(inner, str) else "")
    if not name.strip():
        raise _invalid("tool_name is required for mcp.call")
    return name


def _runtime_input(request: AdapterRequestIn, tool: str, notes: Mapping[str, str]) -> dict[str, Any]:
    values = _object(request.action.input)
    given = values.get("execution")
    execution = dict(given) if isinstance(given, dict) else _execution(values, tool)
    execution.setdefault("kind", tool)
    payload: dict[str, Any] = {"execution": execution}
    if isinstance(values.get("task_id"), str):
        payload["task_id"] = values["task_id"]
    payload.update({key: values[key] for key in _PASSED if key in values})
    payload["metadata"] = {**_texts(values.get("metadata")), **_texts(request.metadata), **notes}
    return payload


def _execution(values: dict[str, Any], tool: str) -> dict[str, Any]:
    needed = "program" if tool == "command" else "script"
    if not isinstance(values.get(needed), str) or not values[needed].strip():
        raise _invalid(f"input.{needed} is required for runtime.{tool}")
    execution = {"kind": tool, needed: values[needed]}
    execution.update({key: values[key] for key in ("args", "interpreter") if key in values})
    if "env" in values:
        execution["env"] = _texts(values["env"])
    return execution


def _object(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise _invalid("input must be a JSON object")
    return values


def _task_id(request: AdapterRequestIn, kind: str) -> str:
    if action_id := (request.action_id or "").strip():
        return action_id
    values = request.action.input
    if kind.startswith("runtime.") and isinstance(values, dict) and isinstance(values.get("task_id"), str):
        return str(values["task_id"])
    return f"adapter-{time.time_ns()}"


def _annotations(request: AdapterRequestIn, kind: str, adapter: str) -> dict[str, str]:
    notes = {
        **(request.metadata or {}),
        "adapter_schema": SCHEMA,
        "adapter": adapter,
        "action_kind": kind,
        "agent_id": request.agent_id or "",
        "session_id": request.session_id or "",
        "action_id": request.action_id or "",
    }
    return {key: value for key, value in notes.items() if key.strip() and value.strip()}


def _texts(values: Any) -> dict[str, str]:
    pairs = values.items() if isinstance(values, dict) else ()
    return {key: value for key, value in pairs if isinstance(value, str)}


# --- whole graphs


def _graph_tasks(request: AdapterRequestIn) -> list[TaskIn]:
    values = request.action.input
    if values is UNSET or values is None:
        raise _invalid("input is required for task_graph.submit")
    given = _object(values)
    if "task_graph" in given:
        document = given["task_graph"]
    elif "tasks" in given:
        document = {"tasks": given["tasks"]}
    else:
        raise _invalid("input must contain tasks or task_graph")
    try:
        return msgspec.convert(document, GraphIn).tasks or []
    except msgspec.ValidationError as error:
        raise _invalid(f"parse task graph input: {error}") from None


def _invalid(what: str) -> ClientException:
    return ClientException(shorten(f"invalid adapter action: {what}", 300))
