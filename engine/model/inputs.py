"""What an attempt puts together before its task runs, out of what upstream tasks returned. Pure.

`TaskSpec.inputs` holds it as JSON:

    references  places in the parameters that wait for results: [{"at": path, "parts": [text | reference]}]
    mapping     {parameter: field}: copied from the first dependency whose result has the field
    required    parameters that must be there by then
    depends_on  the direct dependencies in declared order, if `mapping` or `required` look at them
    condition   CEL text: the task is skipped unless it holds. Evaluated elsewhere
    names       own parameters that the condition reads by their bare names, besides `params` and `tasks`
    tolerance   share of its sub-tasks that need not succeed
    at          where in the spec's parameters the task's own stand: ["params"] for functions

Keys that say nothing are left out; a task without any has no inputs at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ParamsError
from engine.model.json import JSON
from engine.model.placeholders import Path, Pending, Reference, complete


@dataclass(frozen=True, slots=True)
class Inputs:
    references: tuple[Pending, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    condition: str | None = None
    tolerance: float = 0.0
    at: Path = ()
    names: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """Whose results are needed: those referred to, and the dependencies that are looked at."""
        referred = (
            part.task
            for pending in self.references
            for part in pending.parts
            if isinstance(part, Reference) and part.task is not None
        )
        return list(dict.fromkeys((*self.depends_on, *referred)))

    def to_json(self) -> JSON:
        document: dict[str, Any] = {
            "references": [pending.to_json() for pending in self.references],
            "mapping": dict(self.mapping),
            "required": [*self.required],
            "depends_on": [*self.depends_on],
            "condition": self.condition,
            "names": [*self.names],
            "tolerance": self.tolerance,
        }
        told = {key: value for key, value in document.items() if value}
        return {**told, "at": [*self.at]} if told else None

    @classmethod
    def from_json(cls, document: JSON) -> Inputs:
        if not document:
            return cls()
        return cls(
            references=tuple(map(Pending.from_json, document.get("references", ()))),
            mapping=document.get("mapping", {}),
            required=tuple(document.get("required", ())),
            depends_on=tuple(document.get("depends_on", ())),
            condition=document.get("condition"),
            tolerance=document.get("tolerance", 0.0),
            at=tuple(document.get("at", ())),
            names=tuple(document.get("names", ())),
        )


def apply(inputs: Inputs, params: JSON, results: Mapping[str, JSON]) -> JSON:
    """The parameters to run with; `params` stays as it was. `results` holds those of tasks that succeeded.

    Raises `UnresolvedReference`, and `ParamsError` in the contract's words:
    `missing required params: [rows]`.
    """
    completed = complete(params, inputs.references, results)
    if not inputs.mapping and not inputs.required:
        return completed
    own = _own(completed, inputs.at)
    offered = [results[name] for name in inputs.depends_on if isinstance(results.get(name), Mapping)]
    mapped = {
        target: next(result[source] for result in offered if source in result)
        for target, source in inputs.mapping.items()
        if target not in own and any(source in result for result in offered)
    }
    missing = [
        name
        for name in inputs.required
        if name not in own and name not in mapped and not any(name in result for result in offered)
    ]
    if missing:
        raise ParamsError(f"missing required params: [{', '.join(missing)}]")
    return _with(completed, inputs.at, {**own, **mapped})


def _own(params: JSON, at: Path) -> Mapping[str, JSON]:
    for step in at:
        params = params.get(step) if isinstance(params, Mapping) else None
    if params is not None and not isinstance(params, Mapping):
        raise ParamsError("required params and result mapping need parameters that are an object")
    return params or {}


def _with(params: JSON, at: Path, own: JSON) -> JSON:
    if not at:
        return own
    return {**(params or {}), at[0]: _with((params or {}).get(at[0]), at[1:], own)}
