"""What the ExecGo contract says on the wire. Decoded strictly; `UNSET` fields are left out of answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.model.json import MAX_INT, MIN_INT

Int = Annotated[int, Meta(ge=MIN_INT, le=MAX_INT)]
Moment = Annotated[str, Meta(description="RFC 3339 with fraction, in UTC")]
Object = dict[str, Any]


# --- requests


class TaskIn(msgspec.Struct):
    """Unknown keys are ignored, and so are those that only the server sets."""

    id: str | None = None
    type: str | None = None
    params: Any = UNSET
    tool_name: str | None = None
    input: Any = UNSET
    execution_category: str | None = None
    depends_on: list[str] | UnsetType | None = UNSET
    retry: Int | UnsetType | None = UNSET
    timeout: Int | UnsetType | None = UNSET
    annotations: dict[str, str] | None = None


class GraphIn(msgspec.Struct):
    tasks: list[TaskIn] | None = None


class McpCallIn(msgspec.Struct):
    id: str | None = None
    tool_name: str | None = None
    input: Any = None
    timeout: Int | None = None


class AdapterActionIn(msgspec.Struct):
    kind: str | None = None
    tool_name: str | None = None
    input: Any = UNSET
    depends_on: list[str] | UnsetType | None = UNSET
    retry: Int | UnsetType | None = UNSET
    timeout: Int | UnsetType | None = UNSET


class AdapterRequestIn(msgspec.Struct):
    adapter: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    action_id: str | None = None
    metadata: dict[str, str] | None = None
    action: AdapterActionIn = msgspec.field(default_factory=AdapterActionIn)


# --- answers


class Accepted(msgspec.Struct):
    accepted: int
    task_ids: list[str]


class AttemptError(msgspec.Struct):
    """Why an attempt failed; `retryable` is advice."""

    code: str
    message: str
    retryable: bool | UnsetType = UNSET
    source: str | UnsetType = UNSET
    details: Any | UnsetType = UNSET


class Step(msgspec.Struct):
    timestamp: str
    message: str
    data: Any | UnsetType = UNSET


class Envelope(msgspec.Struct):
    """How the last attempt went (contract section 5)."""

    status: str
    handle_id: str | UnsetType = UNSET
    output: Any | UnsetType = UNSET
    started_at: Moment | UnsetType = UNSET
    finished_at: Moment | UnsetType = UNSET
    duration_ms: int | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    details: Any | UnsetType = UNSET
    error: AttemptError | UnsetType = UNSET


class TaskOut(msgspec.Struct):
    """A task as the contract shows it (section 3). `type` is normalised."""

    id: str
    type: str
    status: str
    created_at: Moment
    updated_at: Moment
    params: Any | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    input: Any | UnsetType = UNSET
    execution_category: str | UnsetType = UNSET
    depends_on: list[str] | UnsetType = UNSET
    retry: int | UnsetType = UNSET
    timeout: int | UnsetType = UNSET
    annotations: dict[str, str] | UnsetType = UNSET
    run_status: str | UnsetType = UNSET
    handle_id: str | UnsetType = UNSET
    progress: list[Step] | UnsetType = UNSET
    result: Any | UnsetType = UNSET
    runtime: Envelope | UnsetType = UNSET
    error: str | UnsetType = UNSET


class HandleOut(msgspec.Struct):
    """A direct MCP call as its handle shows it (section 7)."""

    status: str
    handle_id: str
    task_id: str | UnsetType = UNSET
    output: Any | UnsetType = UNSET
    details: Any | UnsetType = UNSET
    progress: list[Step] | UnsetType = UNSET
    started_at: Moment | UnsetType = UNSET
    finished_at: Moment | UnsetType = UNSET
    duration_ms: int | UnsetType = UNSET
    attempt: int | UnsetType = UNSET
    error: AttemptError | UnsetType = UNSET


class Tool(msgspec.Struct):
    name: str
    category: str
    description: str
    input_schema: Object
    metadata: dict[str, str] | UnsetType = UNSET


class Tools(msgspec.Struct):
    tools: list[Tool]


class Index(msgspec.Struct):
    """`links` are paths by topic."""

    name: str
    version: str
    links: dict[str, str]


class HealthData(msgspec.Struct):
    """What the task-engine contract calls the data of the answer."""

    status: str
    version: str
    uptime: str
    timestamp: datetime


class Health(msgspec.Struct, kw_only=True):
    """Two contracts share this path: the bare object of ExecGo, and around it the envelope of task-engine."""

    status: str
    version: str
    uptime: str
    code: int = 0
    message: str = "success"
    data: HealthData


class Metrics(msgspec.Struct):
    """Since the database was made. Failed counts every failed, cancelled and skipped task once."""

    tasks_total: int
    tasks_running: int
    tasks_succeeded: int
    tasks_failed: int
    by_type: dict[str, int]


class AdapterCapabilities(msgspec.Struct):
    schema_version: str
    profiles: list[str]
    action_kinds: list[str]
    compatibility_notes: list[str]


class AdapterTool(msgspec.Struct):
    name: str
    action_kind: str
    category: str
    description: str
    input_schema: Object
    aliases: list[str] | UnsetType = UNSET


class AdapterTools(msgspec.Struct):
    schema_version: str
    tools: list[AdapterTool]


class TranslationTrace(msgspec.Struct):
    schema_version: str
    adapter: str
    agent_id: str
    session_id: str
    action_id: str
    source_kind: str
    normalized_kind: str
    task_ids: list[str]


class TaskGraphOut(msgspec.Struct):
    tasks: list[TaskOut]


class AdapterAnswer(msgspec.Struct):
    accepted: int
    task_ids: list[str]
    task_graph: TaskGraphOut
    translation_trace: TranslationTrace
