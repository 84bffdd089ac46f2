"""Rows as the rest of the engine sees them: frozen, detached from connections. Times are UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from engine.model.graph import Reach
from engine.model.json import JSON
from engine.model.retry import RetryPolicy
from engine.model.states import RunState, TaskState

Place = tuple[int, datetime, int]


Holder = tuple[int, int, str]  # of a lease: task id, attempt number, token


class Lease(NamedTuple):  # of all records the one that is made for every task: a tenth of a dataclass's cost
    """The right to finish one attempt, and all that is needed to make it.

    `(task_id, attempt, token)` is the fence: the number is for people and outside systems, the random
    token is what every write is checked against.
    """

    task_id: int
    run_id: int
    name: str
    kind: str
    params: JSON
    attempt: int
    token: str
    session_id: int
    timeout_ms: int | None
    retry: RetryPolicy
    failures: int
    crashes: int
    client: JSON = None
    inputs: JSON = None
    is_cancelling: bool = False
    reach: Reach = Reach.RELEASE
    rank: int = 0  # -priority
    available_at: datetime = datetime.min.replace(tzinfo=UTC)

    @property
    def place(self) -> Place:
        """Where the task was in the order of its queue."""
        return self.rank, self.available_at, self.task_id

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the task; pass it to outside systems."""
        return f"task-{self.task_id}"

    @property
    def holder(self) -> Holder:
        return self.task_id, self.attempt, self.token


@dataclass(frozen=True, slots=True)
class Run:
    id: int
    state: RunState
    name: str | None
    labels: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    is_cancelling: bool
    events: int  # number of the newest event
    total: int
    running: int
    succeeded: int
    failed: int
    skipped: int
    cancelled: int


@dataclass(frozen=True, slots=True)
class Attempt:
    number: int
    outcome: str  # succeeded, failed, cancelled, released, crashed; running while it has not ended
    worker: str | None
    started_at: datetime
    finished_at: datetime | None
    result: JSON = None
    error: dict[str, Any] | None = None
    cpu_ms: int | None = None
    max_rss_kib: int | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A task with its state and its newest attempt."""

    id: int
    run_id: int
    name: str
    kind: str
    params: JSON
    state: TaskState
    queue: str
    priority: int
    rule: str
    depends_on: tuple[str, ...]
    timeout_ms: int | None
    retry: RetryPolicy
    created_at: datetime
    changed_at: datetime
    available_at: datetime | None
    waiting_on: int
    attempt: int
    failures: int
    crashes: int
    reason: str | None  # why it was skipped or cancelled
    last: Attempt | None
    client: JSON = None
    progress: JSON = None
    parent_id: int | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One change, numbered 1, 2, 3 … within its run in commit order."""

    run_id: int
    number: int
    kind: str
    task_id: int | None
    task_name: str | None
    attempt: int | None
    at: datetime
    actor: str
    detail: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    task_id: int
    task_name: str
    attempt: int
    number: int
    at: datetime
    stream: str  # stdout, stderr, log
    text: str


@dataclass(frozen=True, slots=True)
class WorkerSession:
    """One lifetime of one worker process."""

    id: int
    name: str
    host: str
    pid: int
    started_at: datetime
    beat: int
    ended_at: datetime | None
    end_reason: str | None
    queues: list[str] = field(default_factory=list)
    concurrency: int = 0


@dataclass(frozen=True, slots=True)
class WorkflowVersion:
    """What a run is started from. `definition` is what was given to `save`."""

    id: str
    name: str
    version: int
    is_enabled: bool
    definition: JSON


@dataclass(frozen=True, slots=True)
class SavedWorkflow(WorkflowVersion):
    """One version of a workflow. Whether it `is_scheduled` is up to the schedule that came with it."""

    description: str
    task_count: int
    created_at: datetime  # of the workflow
    changed_at: datetime  # of this version
    is_scheduled: bool = False


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A run of a workflow. `error` is that of the first task that failed if the run did, or what it was
    cancelled for."""

    run: Run
    workflow_id: str
    workflow_name: str
    version: int
    params: JSON
    rerun_of: int | None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit, and how many tasks that name it are running now."""

    key: str
    at_most: int
    running: int


@dataclass(frozen=True, slots=True)
class Token:
    """An API token as listed; the secret itself is never stored."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
