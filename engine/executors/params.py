"""Parameters of executors: parsed strictly, refused with the words of the ExecGo contract (section 6)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from engine.executors.base import ExecutorSettings, TaskContext
from engine.executors.text import shorten
from engine.model.json import JSON
from engine.model.outcomes import Failed, Outcome

MAX_ERROR_TEXT = 200


def _finish_schema(schema: JSON, params_type: type[Params]) -> None:
    """Say what is required, although the model has defaults to refuse it with the contract's words."""
    for name, field in schema.get("properties", {}).items():
        field.pop("title", None)
        if name in params_type.required:
            field.pop("default", None)
    if params_type.required:
        schema["required"] = [*schema.get("required", ()), *params_type.required]
    schema.pop("title", None)


class Params(BaseModel):
    """A wrong JSON type is an error, an unknown key is ignored, `null` is the same as a missing key.

    Field descriptions and limits end up in the JSON Schema and in `docs/kinds.md`. Limits that the contract
    has words for are only told there (`json_schema_extra`) and kept by `require`.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, json_schema_extra=_finish_schema)
    required: ClassVar[tuple[str, ...]] = ()  # names that `require` insists on

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, document: Any) -> Any:
        if not isinstance(document, dict):
            return document
        return {key: value for key, value in document.items() if value is not None}

    def require(self) -> None:
        """Raise `ValueError`, in the contract's words, if a rule beyond types is broken."""


P = TypeVar("P", bound=Params)


class ParamsExecutor(ABC, Generic[P]):
    """Base of the executors here: `perform` gets checked parameters; bad ones fail the attempt."""

    kind: ClassVar[str]
    category: ClassVar[str] = "os"
    noun: ClassVar[str] = "params"  # as the contract's message calls them
    params_type: type[P]

    def __init__(self, settings: ExecutorSettings) -> None:
        self.settings = settings

    def schema(self) -> JSON:
        return self.params_type.model_json_schema()

    def check(self, params: JSON) -> None:
        self.parse(params)

    def parse(self, params: JSON) -> P:
        parsed = parse_params(self.params_type, params, f"parse {self.kind} {self.noun}")
        parsed.require()
        return parsed

    async def execute(self, context: TaskContext, params: JSON) -> Outcome:
        try:
            parsed = self.parse(params)
        except ValueError as error:
            return Failed(str(error))
        return await self.perform(context, parsed)

    @abstractmethod
    async def perform(self, context: TaskContext, params: P) -> Outcome: ...


def parse_params(params_type: type[P], params: JSON, prefix: str) -> P:
    """Raises `ValueError` with one short line: `<prefix>: <what is wrong>`."""
    if params is None:
        raise ValueError(f"{prefix}: a JSON object is required")
    try:
        return params_type.model_validate(params)
    except ValidationError as error:
        raise ValueError(f"{prefix}: {_first_error(error)}") from None


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "model_type":
        return "must be a JSON object"
    where = ".".join(str(part) for part in first["loc"])
    return shorten(f"{where}: {first['msg']}" if where else first["msg"], MAX_ERROR_TEXT)
