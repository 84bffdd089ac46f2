"""The generated parts of `docs/kinds.md`: parameters as the models have them, and the shell's whitelist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.executors.registry import ExecutorRegistry
from engine.executors.shell import AS_GOOD_AS_SCRIPTS, WHITELIST

_TYPES = {"string": "text", "integer": "integer"}


def parameters(registry: ExecutorRegistry, kind: str) -> str:
    """One row for each parameter. Raises `UnknownKind`."""
    schema = registry.schema(kind)
    lines = ["| parameter | type | default | accepted | meaning |", "|" + " --- |" * 5]
    for name, field in schema["properties"].items():
        default = "required" if name in schema.get("required", ()) else _default(field.get("default"))
        shown = (f"`{name}`", _type(field), default, _accepted(field), field["description"])
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def whitelist() -> str:
    return (
        "| programs | |\n| --- | --- |\n"
        f"| {_listed(sorted(WHITELIST - AS_GOOD_AS_SCRIPTS))} | always |\n"
        f"| {_listed(sorted(AS_GOOD_AS_SCRIPTS))} | only where scripts are allowed |\n"
    )


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:  # optional: `null` is the same as a missing key everywhere
        [field] = [choice for choice in field["anyOf"] if choice != {"type": "null"}]
    match field.get("type"):
        case "array":
            return f"list of {_type(field['items'])}s"
        case "object":
            return f"object of {_type(field['additionalProperties'])}s"
        case None:
            return "any JSON"
        case name:
            return _TYPES[name]


def _default(value: Any) -> str:
    return "" if value is None or value in ("", [], {}) else f"`{value}`"


def _accepted(field: dict[str, Any]) -> str:
    if "enum" in field:
        return _listed(field["enum"])
    low, high = field.get("minimum"), field.get("maximum")
    if high is None:
        return ""
    return f"at most {high}" if low is None else f"{low} to {high}"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"`{value}`" for value in values)
