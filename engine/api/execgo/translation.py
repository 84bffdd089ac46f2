"""Between the ExecGo contract and the engine. Pure: submitted tasks become specs, tasks become answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from msgspec import UNSET, UnsetType

from engine.api.bodies import check_size, check_values
from engine.api.execgo.wire import AttemptError, Envelope, HandleOut, Step, TaskIn, TaskOut
from engine.errors import UnknownKind
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Dependency, Graph, TaskSpec, check_count
from engine.model.outcomes import NO_REASON
from engine.model.plugins import KIND as PLUGIN
from engine.model.records import Attempt, Task
from engine.model.retry import RetryPolicy
from engine.model.states import TaskState

CONTRACT = "execgo"
MCP_CONTRACT = "execgo-mcp"

ALIASES = frozenset({"noop", "shell", "file", "http", "dns", "tcp", "sleep"})
OS = "os"
MCP = "mcp"
_INPUT_FIRST = frozenset({MCP, "cli-skills", "runtime"})  # these read `input`, everything else `params`
_MAX_ATTEMPTS = 1_000_000
_MAX_TIMEOUT_MS = 10 * 365 * 86_400_000
_TIMEOUT = "context deadline exceeded"  # what its clients compare with: ours says the time, too
_CODES = frozenset(
    {
        "unknown",
        "invalid_input",
        "launch_failed",
        "timeout",
        "cancelled",
        "memory_limit_exceeded",
        "cpu_limit_exceeded",
        "resource_limit_exceeded",
        "sandbox_setup_failed",
        "exit_nonzero",
        "denied",
        "not_found",
        "external_failure",
        "internal",
    }
)


@dataclass(frozen=True, slots=True)
class Kinds:
    """Our kinds, seen with the contract's eyes: tools of the type `os`, and types of their own."""

    known: frozenset[str]
    tools: frozenset[str]  # kinds that are tools of `os`

    @classmethod
    def of(cls, registry: ExecutorRegistry) -> Kinds:
        kinds = [kind for kind in registry.kinds() if kind != PLUGIN]  # bindings submit those
        return cls(
            frozenset(kinds), frozenset(k for k in kinds if k != OS and registry.get(k).category == OS)
        )

    def kind_of(self, type_: str, tool_name: str) -> str:
        """The kind that performs a submitted task; a tool that does not exist fails when it is tried."""
        if type_ == OS or type_ in ALIASES:
            tool = tool_name.strip()
            return tool if tool in self.tools else OS
        return type_

    def type_of(self, kind: str) -> str:
        return OS if kind in self.tools or kind in ALIASES else kind

    def of_type(self, type_: str) -> list[str]:
        """The kinds behind a normalised type."""
        return sorted({OS, *self.tools, *ALIASES}) if type_ == OS else [type_]

    def unknown(self, type_: str) -> UnknownKind:
        return UnknownKind(type_, sorted({self.type_of(kind) for kind in self.known}))


# --- submitted tasks


def graph_of(tasks: Sequence[TaskIn] | None, kinds: Kinds, body: bytes) -> Graph:
    """Raises `TooLarge`, `ClientException` (400) for values that cannot be stored; other rules come later."""
    check_count(len(tasks or ()))
    return Graph(tuple(spec_of(task, kinds, body) for task in tasks or ()))


def spec_of(task: TaskIn, kinds: Kinds, body: bytes) -> TaskSpec:
    name, type_ = task.id or "", task.type or ""
    is_alias = type_ in ALIASES
    tool_name = type_ if is_alias else task.tool_name or ""
    where = f'task "{name[:80]}"'
    check_values(where, task.params, task.input, tool_name, task.annotations, task.execution_category)
    client: dict[str, Any] = {"type": OS if is_alias else type_}
    if tool_name:
        client["tool_name"] = tool_name
    if is_alias or task.execution_category:
        client["execution_category"] = OS if is_alias else task.execution_category
    params = _take_values(task, client, is_alias)
    check_size(f"{where}: params", body, params)
    check_size(f"{where}: input", body, client.get("other"))
    check_size(f"{where}: tool_name and annotations", body, [tool_name, task.annotations])
    for key in ("depends_on", "retry", "timeout"):
        value = getattr(task, key)
        if value is not UNSET and value is not None:
            client[key] = value
    if task.annotations:
        client["annotations"] = task.annotations
    return TaskSpec(
        name=name,
        kind=kinds.kind_of(type_, tool_name),
        params=params,
        depends_on=tuple(Dependency(name) for name in task.depends_on or ()),
        timeout_ms=limit_of(task.timeout),
        retry=_policy(task.retry or 0),
        client=client,
    )


def _take_values(task: TaskIn, client: dict[str, Any], is_alias: bool) -> Any:
    """What the executor reads; notes in `client` which of `params` and `input` were sent."""
    has_params, has_input = task.params is not UNSET, task.input is not UNSET
    if has_params and has_input:
        input_first = client["type"] in _INPUT_FIRST
        client["sent"], client["other"] = "both", task.params if input_first else task.input
        return task.input if input_first else task.params
    if has_params:
        client["sent"] = "copied" if is_alias else "params"
        return task.params
    if has_input:
        client["sent"] = "input"
        return task.input
    return None


def limit_of(timeout: int | UnsetType | None) -> int | None:
    return min(timeout, _MAX_TIMEOUT_MS) if timeout and timeout > 0 else None


@lru_cache(maxsize=128)
def _policy(retry: int) -> RetryPolicy:
    """Contract 5.1: every failure is tried again, after 100 ms, 200 ms, 400 ms … 10 s."""
    attempts = min(max(retry, 0), _MAX_ATTEMPTS - 1) + 1
    return RetryPolicy(max_attempts=attempts, initial_ms=100, factor=2.0, max_ms=10_000, jitter=0.0)


# --- tasks as answers


def status_of(task: Task) -> str:
    """The contract's five words. Between two attempts a task is still running."""
    match task.state:
        case TaskState.RUNNING:
            return "running"
        case TaskState.AVAILABLE | TaskState.HELD:
            return "running" if task.failures else "pending"
        case TaskState.BLOCKED:
            return "pending"
        case TaskState.SUCCEEDED:
            return "success"
        case TaskState.FAILED | TaskState.CANCELLED:
            return "failed"
        case TaskState.SKIPPED:
            return "skipped"


# What each status means in SQL: states, and whether the task has to have failed before if it waits.
FILTERS: dict[str, tuple[tuple[TaskState, ...], bool | None]] = {
    "pending": ((TaskState.BLOCKED, TaskState.AVAILABLE, TaskState.HELD), False),
    "running": ((TaskState.RUNNING, TaskState.AVAILABLE, TaskState.HELD), True),
    "success": ((TaskState.SUCCEEDED,), None),
    "failed": ((TaskState.FAILED, TaskState.CANCELLED), None),
    "skipped": ((TaskState.SKIPPED,), None),
}


def task_out(task: Task, kinds: Kinds) -> TaskOut:
    client = task.client if isinstance(task.client, dict) else {}
    status = status_of(task)
    answer = TaskOut(
        id=task.name,
        type=client.get("type") or kinds.type_of(task.kind),
        status=status,
        created_at=moment(task.created_at),
        updated_at=moment(task.changed_at),
        tool_name=client.get("tool_name", UNSET),
        execution_category=client.get("execution_category", UNSET),
        depends_on=client.get("depends_on", UNSET),
        retry=client.get("retry", UNSET),
        timeout=client.get("timeout", UNSET),
        annotations=client.get("annotations", UNSET),
    )
    _show_values(answer, task, client)
    if status == "skipped":
        answer.error = task.reason or "dependency failed"
    elif status != "pending":
        _show_execution(answer, task)
    return answer


def _show_values(answer: TaskOut, task: Task, client: dict[str, Any]) -> None:
    sent, other = client.get("sent"), client.get("other")
    input_first = answer.type in _INPUT_FIRST
    if sent in ("params", "copied"):
        answer.params = task.params
    if sent in ("input", "copied"):
        answer.input = task.params
    if sent == "input" and answer.type == OS and task.attempt:
        answer.params = task.params  # the tool reads `params`, so they are mirrored once it runs
    if sent == "both":
        answer.params, answer.input = (other, task.params) if input_first else (task.params, other)


def _show_execution(answer: TaskOut, task: Task) -> None:
    envelope = envelope_of(task)
    answer.run_status = envelope.status
    answer.runtime = envelope
    if answer.type == MCP:
        answer.handle_id = envelope.handle_id = graph_handle(task.id)
        answer.progress = steps_of(task)
    if task.last is not None and task.last.result is not None and answer.status != "running":
        answer.result = task.last.result
    if not isinstance(envelope.error, UnsetType):
        answer.error = envelope.error.message


def envelope_of(task: Task) -> Envelope:
    """How the newest attempt went, for a task that has started or is final."""
    last = task.last
    envelope = Envelope(_RUN_STATUSES.get(task.state, "running"))
    if last is not None:
        envelope.started_at = moment(last.started_at)
    if envelope.status == "running":
        return envelope
    envelope.details = None
    if last is not None:
        _show_attempt(envelope, last)
    if task.state is TaskState.CANCELLED:
        envelope.error = AttemptError("cancelled", NO_REASON, source="scheduler")
    elif task.state is TaskState.FAILED:
        envelope.error = error_of(last)
    return envelope


_RUN_STATUSES = {
    TaskState.SUCCEEDED: "success",
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
}


def _show_attempt(envelope: Envelope, last: Attempt) -> None:
    envelope.attempt = last.number
    envelope.output = last.result
    if last.finished_at is not None:
        envelope.finished_at = moment(last.finished_at)
        envelope.duration_ms = duration_ms(last) or UNSET


def error_of(last: Attempt | None) -> AttemptError:
    """Codes that the contract does not know become `external_failure` and are kept in the details."""
    error = (last.error if last else None) or {"code": "unknown", "message": "unknown failure"}
    code, details = error.get("code", "unknown"), error.get("details", UNSET)
    is_timeout = code == "timeout" and error.get("source") == "scheduler"
    if code not in _CODES:
        known = details if isinstance(details, dict) else {}
        code, details = "external_failure", {**known, "raw_error_code": code}
    return AttemptError(
        code=code,
        message=_TIMEOUT if is_timeout else error.get("message", ""),
        retryable=error.get("retryable") or UNSET,
        source=error.get("source", "executor"),
        details=details,
    )


def steps_of(task: Task) -> list[Step] | UnsetType:
    """What the executor reported, so far as it has the contract's form."""
    steps = task.progress if isinstance(task.progress, list) else []
    shown = [
        Step(str(step["timestamp"]), str(step["message"]), step.get("data", UNSET))
        for step in steps
        if isinstance(step, dict) and "timestamp" in step and "message" in step
    ]
    return shown or UNSET


def moment(value: datetime) -> str:
    return value.isoformat(timespec="microseconds").replace("+00:00", "Z")


def duration_ms(attempt: Attempt) -> int:
    assert attempt.finished_at is not None
    return max(0, (attempt.finished_at - attempt.started_at) // timedelta(milliseconds=1))


# --- MCP handles

_HANDLE_DIGITS = 19


def graph_handle(task_id: int) -> str:
    """The handle of an `mcp` task inside a graph; `task_of_handle` reads it back."""
    return f"mcp-{task_id:0{_HANDLE_DIGITS}d}"


def task_of_handle(handle: str) -> int | None:
    """The task behind a handle that `graph_handle` made. Those of direct calls are points in time."""
    digits = handle.removeprefix("mcp-")
    if len(digits) == _HANDLE_DIGITS and digits.isascii() and digits.isdigit() and digits[0] == "0":
        return int(digits)
    return None


def handle_out(task: Task, handle: str) -> HandleOut:
    client = task.client if isinstance(task.client, dict) else {}
    task_id = task.name if task.name != handle else client.get("task_id") or UNSET
    waits = task.state in (TaskState.BLOCKED, TaskState.AVAILABLE, TaskState.HELD) and not task.failures
    envelope = Envelope("accepted") if waits or task.state is TaskState.SKIPPED else envelope_of(task)
    return HandleOut(
        status=envelope.status,
        handle_id=handle,
        task_id=task_id,
        output=UNSET if envelope.output is None else envelope.output,
        progress=steps_of(task),
        started_at=envelope.started_at,
        finished_at=envelope.finished_at,
        duration_ms=envelope.duration_ms,
        attempt=envelope.attempt,
        error=envelope.error,
    )
