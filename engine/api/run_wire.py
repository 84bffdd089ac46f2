"""The runs of `/api/v1` on the wire. Requests are strict: an unknown key or a near miss is an error."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from engine.model.graph import (
    DEFAULT_QUEUE,
    MAX_AT_MOST,
    MAX_NAME,
    MAX_PRIORITY,
    MAX_TASKS,
    MIN_PRIORITY,
    Priority,
    Rule,
    check_count,
    unprintable,
)
from engine.model.retry import Backoff

MAX_LABELS = 100
_MAX_KEYS = 100  # of any object with known keys
_MAX_MS = 2**31 - 1  # 24 days
_MAX_TIMEOUT_MS = 365 * 86_400_000


def _printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError(f"contains {unprintable(value)}")
    if not value.strip():
        raise ValueError("is blank")
    return value


def _text_time(value: Any) -> Any:
    if not (isinstance(value, str) and value[4:5] == "-"):  # seconds since 1970 as text are no near miss
        raise ValueError("must be a time as text, such as 2026-01-31T12:00:00Z")
    return value


def _plausible(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("the year is outside 1970 to 9000")
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number")
    return value


# Pydantic gathers all errors, a kilobyte each: 64 MiB of zeros where texts belong would be tens of GiB.


@dataclass(slots=True)
class Errors:
    """Context of a validation that stops looking once there are `limit` errors in its tasks."""

    limit: int
    found: int = 0


def _until_enough(value: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    errors: Errors | None = info.context
    if errors is None:
        return check(value)
    if errors.found >= errors.limit:
        return value  # unchecked, and never used: the document is refused
    try:
        return check(value)
    except ValidationError as error:
        errors.found += error.error_count()
        raise


def _few_tasks(value: Any) -> Any:
    if isinstance(value, list):
        check_count(len(value))  # not a pydantic error: too large is another status than wrong
    return value


def _few_labels(value: Any) -> Any:
    if isinstance(value, dict) and len(value) > MAX_LABELS:
        raise ValueError(f"has {len(value)} labels, the limit is {MAX_LABELS}")
    return value


Name = Annotated[StrictStr, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
Time = Annotated[AwareDatetime, BeforeValidator(_text_time), AfterValidator(_plausible)]
Number = Annotated[float, BeforeValidator(_number)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > _MAX_KEYS:
            raise ValueError(f"has {len(value)} keys (known: {', '.join(cls.model_fields)})")
        return value


# --- requests


class RetryIn(_Strict):
    """`max_attempts` counts failures, `max_crashes` lost workers."""

    max_attempts: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    max_crashes: Annotated[StrictInt, Field(ge=1, le=100)] = 3
    backoff: Backoff = Backoff.EXPONENTIAL
    initial_ms: Annotated[StrictInt, Field(ge=0, le=_MAX_MS)] = 1_000
    factor: Annotated[Number, Field(ge=1, le=1000)] = 2.0
    max_ms: Annotated[StrictInt, Field(ge=0, le=_MAX_MS)] = 60_000
    jitter: Annotated[Number, Field(ge=0, le=1)] = 0.1


class DependencyIn(_Strict):
    """With `condition`, the edge is taken only if the upstream succeeded with that branch."""

    name: Name
    condition: Name | None = None


class RunTaskIn(_Strict):
    name: Name
    kind: Name
    params: Any = None
    depends_on: Annotated[list[Name | DependencyIn], FailFast()] = []
    rule: Rule = Rule.ALL_SUCCESS
    queue: Name = DEFAULT_QUEUE
    priority: Annotated[StrictInt, Field(ge=MIN_PRIORITY, le=MAX_PRIORITY)] | Priority = 0
    available_at: Time | None = None
    delay_ms: Annotated[StrictInt, Field(ge=0, le=_MAX_MS)] = 0
    timeout_ms: Annotated[StrictInt, Field(ge=1, le=_MAX_TIMEOUT_MS)] | None = None
    retry: RetryIn = RetryIn()


class RunIn(_Strict):
    name: Name | None = None
    labels: Annotated[
        dict[Name, Annotated[StrictStr, Field(max_length=1000)]],
        BeforeValidator(_few_labels),
        Field(json_schema_extra={"maxProperties": MAX_LABELS}),
    ] = {}
    tasks: Annotated[
        list[Annotated[RunTaskIn, WrapValidator(_until_enough)]],
        BeforeValidator(_few_tasks),
        Field(min_length=1, json_schema_extra={"maxItems": MAX_TASKS}),
    ]


class TokenIn(_Strict):
    name: Name
    scopes: Annotated[
        list[Literal["read", "submit", "control", "worker", "admin"]], FailFast(), Field(min_length=1)
    ]
    expires_at: Time | None = None


class LimitIn(_Strict):
    at_most: Annotated[StrictInt, Field(ge=1, le=MAX_AT_MOST)]


class CancelIn(msgspec.Struct, forbid_unknown_fields=True):
    """`reason` is what the run, or instance, and its tasks say afterwards."""

    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)] | None = None


# --- answers


class SubmittedRun(msgspec.Struct):
    """`is_repeat`: the run was there already, from an earlier request with the same `Idempotency-Key`."""

    run_id: int
    task_ids: dict[str, int]
    is_repeat: bool


class Progress(msgspec.Struct):
    total: int
    open: int
    running: int
    succeeded: int
    failed: int
    skipped: int
    cancelled: int


class RunOut(msgspec.Struct):
    id: int
    state: str
    name: str | None
    labels: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    is_cancelling: bool
    events: int
    progress: Progress


class Runs(msgspec.Struct):
    """Newest first. `next_before` reads on; null at the end."""

    runs: list[RunOut]
    next_before: int | None


class AttemptOut(msgspec.Struct):
    number: int
    outcome: str
    worker: str | None
    started_at: datetime
    finished_at: datetime | None
    result: Any
    error: dict[str, Any] | None
    cpu_ms: int | None
    max_rss_kib: int | None


class RunTask(msgspec.Struct):
    id: int
    name: str
    kind: str
    state: str
    params: Any
    depends_on: list[str]
    rule: str
    queue: str
    priority: int
    timeout_ms: int | None
    retry: dict[str, Any]
    created_at: datetime
    changed_at: datetime
    available_at: datetime | None
    waiting_on: int
    attempt: int
    failures: int
    crashes: int
    reason: str | None
    progress: Any
    parent_id: int | None
    last: AttemptOut | None


class RunTasks(msgspec.Struct):
    """In the order of submission. `next_after` reads on; null at the end."""

    tasks: list[RunTask]
    next_after: int | None


class TaskDetails(msgspec.Struct):
    task: RunTask
    attempts: list[AttemptOut]


class Edge(msgspec.Struct):
    upstream: str
    downstream: str
    condition: str | None


class RunDetails(msgspec.Struct):
    """A run with the first page of its tasks and edges, so far as `include` names them."""

    run: RunOut
    tasks: list[RunTask] | None
    next_after: int | None
    edges: list[Edge] | None
    has_more_edges: bool


class EventOut(msgspec.Struct):
    number: int
    kind: str
    task_id: int | None
    task_name: str | None
    attempt: int | None
    at: datetime
    actor: str
    detail: Any


class Events(msgspec.Struct):
    """In order, without gaps. `last` is the `after` of the next request."""

    run_id: int
    events: list[EventOut]
    last: int


class LogLineOut(msgspec.Struct):
    task_id: int
    task_name: str
    attempt: int
    number: int
    at: datetime
    stream: str
    text: str


class Logs(msgspec.Struct):
    run_id: int
    lines: list[LogLineOut]


class WorkerOut(msgspec.Struct):
    id: int
    name: str
    host: str
    pid: int
    started_at: datetime
    beat: int
    ended_at: datetime | None
    end_reason: str | None
    queues: list[str]
    concurrency: int


class Workers(msgspec.Struct):
    workers: list[WorkerOut]


class TokenOut(msgspec.Struct):
    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class Tokens(msgspec.Struct):
    tokens: list[TokenOut]


class LimitOut(msgspec.Struct):
    """`running`: tasks that name the limit and run now."""

    key: str
    at_most: int
    running: int


class Limits(msgspec.Struct):
    limits: list[LimitOut]


class NewToken(msgspec.Struct):
    """The secret is shown this once."""

    id: str
    token: str
