"""Workflows and instances as JSON. Every answer is in the envelope `{code, message, data}`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec

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


class UploadIn(msgspec.Struct):
    """`content` is YAML."""

    content: str


class ExecuteIn(msgspec.Struct):
    params: dict[str, Any] | None = None


# --- answers


class Message(msgspec.Struct):
    message: str
    id: str


class Started(msgspec.Struct):
    instance_id: str
    message: str


class WorkflowSummary(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    name: str
    description: str
    task_count: int
    created_at: datetime
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


class WorkflowDetail(WorkflowSummary, omit_defaults=True, kw_only=True):
    tasks: list[WorkflowTaskOut]
    dependencies: dict[str, list[str]]


class Workflows(msgspec.Struct):
    total: int
    items: list[WorkflowSummary]
    has_more: bool


class Progress(msgspec.Struct, omit_defaults=True, kw_only=True):
    """`completed` counts successes; `failed` also what never ran because of a failure; `skipped` what a
    condition left out."""

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
    """`state` is the engine's own word for the status."""

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
