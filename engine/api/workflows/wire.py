"""Workflows and instances as JSON. Every answer is in the envelope `{code, message, data}`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.model.realtime import Protocol, RealtimeMode, RealtimeType
from engine.model.schedules import MAX_CATCH_UP, CatchUp, Overlap

T = TypeVar("T")


class Envelope(msgspec.Struct, Generic[T], omit_defaults=True):
    """`code` is 0, or the HTTP status of a refusal, which has no data."""

    code: int
    message: str
    data: T | None = None


class InstanceStatus(StrEnum):
    READY = "Ready"  # submitted; no task has started yet
    RUNNING = "Running"
    PAUSED = "Paused"
    SUCCESS = "Success"
    FAILED = "Failed"
    TERMINATED = "Terminated"  # cancelled


class TaskStatus(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCESS = "Success"
    FAILED = "Failed"
    TIMEOUT = "TimeoutFailed"
    SKIPPED = "Skipped"
    CANCELLED = "Cancelled"


class WorkflowStatus(StrEnum):
    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


class Order(StrEnum):
    NEWEST_FIRST = "desc"
    OLDEST_FIRST = "asc"


# --- requests


class UploadIn(msgspec.Struct, forbid_unknown_fields=True):
    """`content` is YAML; `environment` is what `${NAME}` and `${NAME:default}` in it are replaced by."""

    content: str
    environment: dict[str, str] | None = None


class ExecuteIn(msgspec.Struct, forbid_unknown_fields=True):
    params: dict[str, Any] | None = None


class TriggerIn(msgspec.Struct, forbid_unknown_fields=True):
    """Nothing: what a schedule starts is in the schedule."""


ScheduleName = Annotated[str, Meta(examples=["orders on weekdays"])]
Expression = Annotated[str, Meta(description="six fields, seconds first", examples=["0 30 8 * * MON-FRI"])]
Zone = Annotated[str, Meta(description="IANA name", examples=["Europe/Berlin"])]
CatchUpLimit = Annotated[int, Meta(ge=1, le=MAX_CATCH_UP)]


class ScheduleIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`workflow_id` is an id or a name. Without `zone` the server's holds. `catch_up_limit` counts for
    `catch_up` `all`."""

    workflow_id: Annotated[str, Meta(examples=["orders"])]
    name: ScheduleName
    expression: Expression
    zone: Zone | None = None
    params: Annotated[dict[str, Any] | None, Meta(examples=[{"region": "eu"}])] = None
    overlap: Overlap = Overlap.ALLOW
    catch_up: CatchUp = CatchUp.LAST
    catch_up_limit: CatchUpLimit = 100


class ScheduleChangeIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays as it is. `is_enabled` false pauses the schedule, true resumes it."""

    name: ScheduleName | UnsetType = UNSET
    expression: Expression | UnsetType = UNSET
    zone: Zone | UnsetType = UNSET
    params: dict[str, Any] | UnsetType | None = UNSET
    overlap: Overlap | UnsetType = UNSET
    catch_up: CatchUp | UnsetType = UNSET
    catch_up_limit: CatchUpLimit | UnsetType = UNSET
    is_enabled: Annotated[bool, Meta(examples=[False])] | UnsetType = UNSET


class DefinitionFormat(StrEnum):
    JSON = "json"
    YAML = "yaml"


# --- answers


class Message(msgspec.Struct):
    message: str
    id: str


class Started(msgspec.Struct):
    instance_id: str
    message: str


class WorkflowSummary(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`created_at` is the time of the first version, `changed_at` of this one."""

    id: str
    name: str
    description: str
    task_count: int
    created_at: datetime
    changed_at: datetime
    status: WorkflowStatus
    version: int
    cron_expr: str | None = None
    cron_enabled: bool | None = None


class Uploaded(WorkflowSummary, omit_defaults=True, kw_only=True):
    """The first workflow of the document, and all of them."""

    workflows: list[WorkflowSummary]


class WorkflowTaskOut(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`dependencies` are names; `timeout` is in seconds."""

    id: str
    name: str
    description: str
    dependencies: list[str] | None = None
    timeout: float | None = None
    retry_count: int | None = None


class SubscriptionOut(msgspec.Struct):
    event: str
    function: str
    priority: int


class RealtimeTaskOut(WorkflowTaskOut, omit_defaults=True, kw_only=True):
    """`protocol` is that of its endpoint, whose address may hold secrets and is not shown."""

    mode: RealtimeMode
    type: RealtimeType
    function: str | None = None
    protocol: Protocol | None = None
    collector: str | None = None
    subscriptions: list[SubscriptionOut] | None = None


class WorkflowDetail(WorkflowSummary, omit_defaults=True, kw_only=True):
    """`realtime_tasks` are those of a streaming workflow."""

    tasks: list[WorkflowTaskOut]
    realtime_tasks: list[RealtimeTaskOut] | None = None
    dependencies: dict[str, list[str]]


class WorkflowVersion(WorkflowSummary, omit_defaults=True, kw_only=True):
    """`definition` is what is stored: all that differs from a default."""

    definition: dict[str, Any]


class Workflows(msgspec.Struct):
    total: int
    items: list[WorkflowSummary]
    has_more: bool


class ScheduleOut(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`next_at` is the nominal time that is decided about next; `last_at` the one that fired last;
    `queued_at` one that waits for the run before it; `error` why the last firing started no instance."""

    id: str
    workflow_id: str
    name: str
    expression: str
    explanation: str | None = None
    zone: str
    params: dict[str, Any] | None = None
    overlap: Overlap
    catch_up: CatchUp
    catch_up_limit: int
    is_enabled: bool
    next_at: datetime | None = None
    last_at: datetime | None = None
    queued_at: datetime | None = None
    error: str | None = None
    actor: str
    created_at: datetime
    changed_at: datetime


class Schedules(msgspec.Struct):
    total: int
    items: list[ScheduleOut]
    has_more: bool


class NextTime(msgspec.Struct):
    """One moment: in UTC, and with the offset of the schedule's zone."""

    at: datetime
    local: datetime


class NextTimes(msgspec.Struct):
    """Of a paused schedule: the times that would come if it were resumed now."""

    id: str
    name: str
    zone: str
    is_enabled: bool
    times: list[NextTime]


class FunctionOut(msgspec.Struct, kw_only=True):
    """`params` is the JSON Schema of its parameters; `workers` names up to 20 live workers that have it.
    It is missing if none has."""

    name: str
    description: str
    origin: str
    params: dict[str, Any] | None
    registered_at: datetime
    worker_count: int
    workers: list[str]
    is_missing: bool


class Functions(msgspec.Struct):
    total: int
    items: list[FunctionOut]
    has_more: bool


class Progress(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`completed` counts successes; `failed` also what was cancelled and what never ran because of a failure;
    `skipped` what was left out for another reason: a condition, a branch, a rule."""

    total: int
    completed: int
    running: int
    failed: int
    pending: int
    skipped: int = 0
    running_task_ids: list[str] | None = None
    pending_task_ids: list[str] | None = None


class InstanceSummary(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`duration` reads like `1.2s`, `2m30s`, `1h5m`."""

    id: str
    workflow_id: str
    workflow_name: str
    status: InstanceStatus
    started_at: datetime
    finished_at: datetime | None = None
    duration: str | None = None
    duration_ms: int | None = None
    error_message: str | None = None
    version: int


class InstanceDetail(InstanceSummary, omit_defaults=True, kw_only=True):
    progress: Progress
    params: dict[str, Any] | None = None


class Instances(msgspec.Struct):
    total: int
    items: list[InstanceSummary]
    has_more: bool


class TaskInstance(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`state` is the engine's own word for the status. `stream` is how a realtime task comes along: its own
    state and metrics, as its progress shows them."""

    id: str
    task_id: str
    task_name: str
    status: TaskStatus
    state: str
    retry_count: int
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration: str | None = None
    duration_ms: int | None = None
    error_message: str | None = None
    stream: dict[str, Any] | None = None


# --- pushed over sockets


class UpdateType(StrEnum):
    INSTANCE = "instance_status"
    TASK = "task_status"


class StatusUpdate(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`number` is that of the event within its instance; where to go on after a reconnect. `progress` goes
    with the newest event there was. `cursor` is where to go on in all instances of a workflow."""

    type: UpdateType
    instance_id: str
    task_id: str | None = None
    task_name: str | None = None
    status: InstanceStatus | TaskStatus
    progress: Progress | None = None
    timestamp: datetime
    error: str | None = None
    number: int
    cursor: str | None = None
