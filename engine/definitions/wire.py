"""The YAML format, key by key (contract section 4, with its extensions). Strict: an unknown key is an error.

Ids are not required here: that is for the rules to tell, along with all else. The JSON Schema says it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, JsonValue, model_validator

from engine.model.durations import format_ms, parse_ms
from engine.model.graph import MAX_PRIORITY, MIN_PRIORITY, Rule, priority_level
from engine.model.parameters import ParamType
from engine.model.realtime import CollectorMode, Pressure, Protocol, RealtimeMode, RealtimeType
from engine.model.shapes import echo
from engine.model.workflow_rules import MAX_ITEMS, MAX_RETRIES
from engine.model.workflows import CallbackState, Mode

_MAX_KEYS = 100  # of an object with known keys


def _duration(value: Any) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool) and value:
        raise ValueError(f"{value} has no unit; write 500ms, 45s, 2m30s or 1h")
    if not isinstance(value, str | int):
        raise ValueError(f"expected a duration such as 45s, got {echo(value)}")
    return parse_ms(str(value))


def _priority(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"expected an integer or one of low, medium, high, urgent, got {echo(value)}")
    try:
        return priority_level(value)
    except Exception as error:
        raise ValueError(str(error)) from None


def _undo(value: Any) -> Any:
    return {"func_key": value} if isinstance(value, str) else value


def _param(value: Any) -> Any:
    return value if isinstance(value, dict) else {"default": value}


def _few(value: Any) -> Any:
    """Pydantic gathers a kilobyte for each error: a list of a million zeros must not get that far."""
    if isinstance(value, dict | list) and len(value) > MAX_ITEMS:
        raise ValueError(f"has {len(value)} entries, the limit is {MAX_ITEMS}")
    return value


_WORD = Field(strict=False)  # text is read as the member of an enum
Duration = Annotated[
    int, BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(examples=["45s", "2m30s"])])
]
Names = Annotated[list[str], FailFast()]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if len(value) > _MAX_KEYS:
            raise ValueError(f"has {len(value)} keys (known: {', '.join(cls.model_fields)})")
        return {key: item for key, item in value.items() if item is not None}


class ParamIn(_Strict):
    """A declared parameter. In short, a default value that is not an object can stand for it."""

    default: Any = None
    type: Annotated[ParamType, _WORD] = ParamType.ANY
    required: bool = False
    description: str = ""


class CallbackIn(_Strict):
    """A function that is called once the task has ended that way."""

    state: Annotated[CallbackState, _WORD]
    func_key: str
    description: str = ""


class UndoIn(_Strict):
    """A function that undoes what the task did. In short, its name."""

    func_key: str
    params: Any = None


class JobIn(_Strict):
    """A name for a registered function."""

    model_config = ConfigDict(json_schema_extra={"required": ["job_id", "func_key"]})

    job_id: str = Field("", description="unique")
    func_key: str = Field("", description="a registered function")
    description: str = ""
    timeout: Duration | None = Field(None, description="per attempt, of tasks that have none of their own")


_ANY_OF: list[JsonValue] = [{"required": [key]} for key in ("job_id", "func_key", "kind")]


Level = Annotated[
    int,
    BeforeValidator(
        _priority,
        json_schema_input_type=Annotated[int, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY)]
        | Literal["low", "medium", "high", "urgent"],
    ),
]
_UNLESS = "what the function says that is called, unless it is given"


class TaskIn(_Strict):
    """Names a job, a function or another kind."""

    model_config = ConfigDict(json_schema_extra={"required": ["task_id"], "anyOf": _ANY_OF})

    task_id: str = Field("", description="unique in the workflow")
    job_id: str | None = None
    func_key: str | None = Field(None, description="a registered function, without a job")
    kind: str | None = Field(None, description="of an executor, such as http or shell")
    description: str = ""
    params: Any = Field(None, description="may hold ${name} and ${{ tasks.name.result.field }}")
    dependencies: Names = []
    rule: Annotated[Rule, _WORD] = Rule.ALL_SUCCESS
    condition: str | None = Field(None, description="CEL; the task is skipped unless it holds")
    timeout: Duration | None = Field(None, description="per attempt; 0s is the engine's default")
    retry_count: Annotated[int, Field(ge=0, le=MAX_RETRIES)] | None = Field(None, description=_UNLESS)
    retry_interval: Duration | None = Field(None, description="without it 1s, 2s, 4s …")
    queue: str | None = Field(None, description=_UNLESS)
    priority: Level | None = Field(None, description=_UNLESS)
    limits: Annotated[dict[str, int], BeforeValidator(_few)] | None = Field(
        None, description="at most so many tasks that name the key run at once"
    )
    required_params: Names = []
    result_mapping: Annotated[dict[str, str], BeforeValidator(_few)] = Field(
        {}, description="parameter: field of a dependency's result"
    )
    compensation: Annotated[UndoIn, BeforeValidator(_undo, json_schema_input_type=str | UndoIn)] | None = None
    callbacks: Annotated[list[CallbackIn], BeforeValidator(_few)] = []
    is_template: bool = Field(False, description="creates tasks while it runs")


class EndpointIn(_Strict):
    url: str
    protocol: Annotated[Protocol, _WORD]


class ReconnectIn(_Strict):
    enabled: bool = True
    max_attempts: int = Field(0, description="0: no limit")
    first: Duration = 1_000
    max: Duration = 30_000
    factor: float = 2.0
    jitter: float = 0.1


class BackpressureIn(_Strict):
    threshold: float = 0.8
    action: Annotated[Pressure, _WORD] = Pressure.THROTTLE


class SubscriptionIn(_Strict):
    event: str
    func_key: str
    priority: int = 0
    filter: str | None = Field(None, description="CEL")


class RealtimeTaskIn(_Strict):
    model_config = ConfigDict(json_schema_extra={"required": ["task_id"]})

    task_id: str = Field("", description="unique in the workflow")
    job_id: str | None = None
    func_key: str | None = None
    description: str = ""
    params: Any = None
    mode: Annotated[RealtimeMode, _WORD] = RealtimeMode.ONE_SHOT
    task_type: Annotated[RealtimeType, _WORD] = RealtimeType.DATA_COLLECTOR
    dependencies: Names = []
    timeout: Duration | None = None
    retry_count: Annotated[int, Field(ge=0, le=MAX_RETRIES)] = 0
    buffer_size: int = 10_000
    batch_size: int = 100
    flush_interval: Duration = 1_000
    endpoint: EndpointIn | None = None
    reconnect: ReconnectIn = ReconnectIn()
    backpressure: BackpressureIn = BackpressureIn()
    data_handler: str | None = None
    error_handler: str | None = None
    subscriptions: Annotated[list[SubscriptionIn], BeforeValidator(_few)] = []
    collector: str | None = None
    collector_mode: Annotated[CollectorMode, _WORD] = CollectorMode.PUSH


class DefinitionIn(_Strict):
    """A workflow."""

    model_config = ConfigDict(json_schema_extra={"required": ["workflow_id"]})

    workflow_id: str = Field("", description="unique; the workflow's name")
    description: str = ""
    cron: str | None = Field(None, description="six fields, seconds first", examples=["0 30 1 * * *"])
    timezone: str | None = Field(None, description="IANA name, of cron")
    params: Annotated[
        dict[
            str,
            Annotated[
                ParamIn,
                BeforeValidator(
                    _param, json_schema_input_type=str | int | float | bool | None | list[Any] | ParamIn
                ),
            ],
        ],
        BeforeValidator(_few),
    ] = {}
    execution_mode: Annotated[Mode, _WORD] = Mode.BATCH
    max_concurrent_task: int | None = None
    sub_task_error_tolerance: float = Field(0.0, description="share of sub-tasks that may fail")
    transactional: bool = False
    labels: Annotated[dict[str, str], BeforeValidator(_few)] = {}
    tasks: list[TaskIn] = []
    realtime_tasks: list[RealtimeTaskIn] = []


class WorkflowsIn(_Strict):
    environment: bool = Field(True, description="false: ${NAME} is never an environment variable here")
    jobs: list[JobIn] = []
    definitions: list[DefinitionIn] = []


class DocumentIn(_Strict):
    """Workflow definitions of Task Engine."""

    model_config = ConfigDict(json_schema_extra={"required": ["workflows"]})

    workflows: WorkflowsIn = WorkflowsIn()


def json_schema() -> dict[str, Any]:
    """JSON Schema of a document, for editors."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Task Engine workflows"}
    return {**head, **_tidied(DocumentIn.model_json_schema())}


def _tidied(schema: Any) -> Any:
    """Without the titles and the defaults that pydantic makes of Python's names and values."""
    if isinstance(schema, list):
        return [_tidied(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: {name: _tidied(inner) for name, inner in item.items()}
        if key in ("properties", "$defs")
        else _tidied(item)
        for key, item in schema.items()
    }
    if isinstance(kept.get("title"), str):
        del kept["title"]
    if schema.get("type") == "string" and isinstance(schema.get("default"), int):
        kept["default"] = format_ms(schema["default"])
    elif "default" in kept and (kept["default"] in (None, "", [], {}) or isinstance(kept["default"], dict)):
        del kept["default"]
    return kept
