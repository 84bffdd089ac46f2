"""Between the runs of `/api/v1` and the engine. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import msgspec
from pydantic import BaseModel, ValidationError

from engine.api.answers import MAX_ERRORS, FieldError, InvalidFields, shorten
from engine.api.bodies import MAX_PARAMS_BYTES
from engine.api.run_wire import (
    AttemptOut,
    DependencyIn,
    Errors,
    EventOut,
    LogLineOut,
    Progress,
    RetryIn,
    RunIn,
    RunOut,
    RunTask,
    RunTaskIn,
    TokenOut,
    WorkerOut,
)
from engine.errors import GraphError, NotFound
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Dependency, Graph, TaskSpec, plan, priority_level
from engine.model.json import MAX_INT, Unstorable, check_storable
from engine.model.records import Attempt, Event, LogLine, Run, Task, Token, WorkerSession
from engine.model.retry import RetryPolicy

M = TypeVar("M", bound=BaseModel)
_MAX_ECHO = 60


def validate(model: type[M], document: Any) -> M:
    """Raises `InvalidFields` with a JSON pointer for each thing that is wrong, up to `MAX_ERRORS`."""
    try:
        return model.model_validate(document, context=Errors(MAX_ERRORS))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    raise InvalidFields(
        [
            FieldError(pointer(item["loc"]), shorten(_message(item["type"], item["msg"]), 200))
            for item in found[:MAX_ERRORS]
        ]
    )


def _message(kind: str, message: str) -> str:
    return "must be an object" if kind == "model_type" else message.removeprefix("Value error, ")


def pointer(path: Sequence[str | int]) -> str:
    """RFC 6901. Names of union branches, which pydantic puts into its paths, are left out."""
    parts = [str(part) for part in path if not _is_branch(part)]
    return "".join("/" + shorten(part, _MAX_ECHO).replace("~", "~0").replace("/", "~1") for part in parts)


def _is_branch(part: str | int) -> bool:
    return isinstance(part, str) and (
        part.startswith(("function-", "constrained-", "lax-or-", "str-enum[")) or part in _BRANCHES
    )


_BRANCHES = frozenset({DependencyIn.__name__, "int", "str", "enum", "[key]"})


def graph_of(run: RunIn, registry: ExecutorRegistry) -> Graph:
    """Checks kinds and parameters; the graph's own rules are checked on submit.

    Raises `InvalidFields`, which then begins with the rule that the graph breaks, if it breaks one.
    """
    errors: list[FieldError] = []
    for index, task in enumerate(run.tasks):
        if len(errors) >= MAX_ERRORS:
            break
        errors += _task_errors(index, task, registry)
    for key, value in run.labels.items():
        errors += _unstorable(pointer(("labels", key)), value)
    graph = Graph(tuple(_spec(task) for task in run.tasks), name=run.name, labels=dict(run.labels))
    if errors:
        raise InvalidFields([*_broken_rule(graph), *errors])
    return graph


def _broken_rule(graph: Graph) -> list[FieldError]:
    try:
        plan(graph)
    except GraphError as error:
        return [FieldError("/tasks", shorten(str(error), 200))]
    return []


def _task_errors(index: int, task: RunTaskIn, registry: ExecutorRegistry) -> list[FieldError]:
    where = f"/tasks/{index}/params"
    if task.kind not in registry:
        known = ", ".join(registry.kinds())
        return [
            FieldError(
                f"/tasks/{index}/kind", f'unknown kind "{shorten(task.kind, _MAX_ECHO)}" (known: {known})'
            )
        ]
    if errors := _unstorable(where, task.params):
        return errors
    if len(msgspec.json.encode(task.params)) > MAX_PARAMS_BYTES:
        return [FieldError(where, f"larger than the limit of {MAX_PARAMS_BYTES} bytes")]
    try:
        registry.get(task.kind).check(task.params)
    except ValueError as error:
        return [FieldError(where, shorten(str(error), 200))]
    unknown = registry.unknown(task.kind, task.params)
    return [FieldError(where + pointer((name,)), message) for name, message in unknown.items()]


def _unstorable(where: str, value: Any) -> list[FieldError]:
    try:
        check_storable(value)
    except Unstorable as error:
        return [FieldError(where, str(error))]
    return []


def _spec(task: RunTaskIn) -> TaskSpec:
    return TaskSpec(
        name=task.name,
        kind=task.kind,
        params=task.params,
        depends_on=tuple(
            Dependency(item) if isinstance(item, str) else Dependency(item.name, item.condition)
            for item in task.depends_on
        ),
        rule=task.rule,
        queue=task.queue,
        priority=priority_level(task.priority),
        available_at=task.available_at,
        delay_ms=task.delay_ms,
        timeout_ms=task.timeout_ms,
        retry=_policy(task.retry),
    )


def _policy(retry: RetryIn) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        max_crashes=retry.max_crashes,
        backoff=retry.backoff,
        initial_ms=retry.initial_ms,
        factor=retry.factor,
        max_ms=retry.max_ms,
        jitter=retry.jitter,
    )


# --- ids


def id_of(text: str, what: str) -> int:
    """An id out of a path. What cannot be an id is not found."""
    if text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= MAX_INT:
        return int(text)
    raise NotFound(f"{what} not found: {shorten(text, _MAX_ECHO)}")


def name_of(text: str, what: str) -> str:
    if text.isprintable():
        return text
    raise NotFound(f"{what} not found: the name holds a control character")


# --- answers


def run_out(run: Run) -> RunOut:
    final = run.succeeded + run.failed + run.skipped + run.cancelled
    return RunOut(
        id=run.id,
        state=run.state,
        name=run.name,
        labels=run.labels,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        is_cancelling=run.is_cancelling,
        events=run.events,
        progress=Progress(
            total=run.total,
            open=run.total - final,
            running=run.running,
            succeeded=run.succeeded,
            failed=run.failed,
            skipped=run.skipped,
            cancelled=run.cancelled,
        ),
    )


def attempt_out(attempt: Attempt) -> AttemptOut:
    return AttemptOut(
        number=attempt.number,
        outcome=attempt.outcome,
        worker=attempt.worker,
        started_at=attempt.started_at,
        finished_at=attempt.finished_at,
        result=attempt.result,
        error=attempt.error,
        cpu_ms=attempt.cpu_ms,
        max_rss_kib=attempt.max_rss_kib,
    )


def task_out(task: Task) -> RunTask:
    return RunTask(
        id=task.id,
        name=task.name,
        kind=task.kind,
        state=task.state,
        params=task.params,
        depends_on=list(task.depends_on),
        rule=task.rule,
        queue=task.queue,
        priority=task.priority,
        timeout_ms=task.timeout_ms,
        retry=asdict(task.retry),
        created_at=task.created_at,
        changed_at=task.changed_at,
        available_at=task.available_at,
        waiting_on=task.waiting_on,
        attempt=task.attempt,
        failures=task.failures,
        crashes=task.crashes,
        reason=task.reason,
        progress=task.progress,
        parent_id=task.parent_id,
        last=None if task.last is None else attempt_out(task.last),
    )


def event_out(event: Event) -> EventOut:
    return EventOut(
        number=event.number,
        kind=event.kind,
        task_id=event.task_id,
        task_name=event.task_name,
        attempt=event.attempt,
        at=event.at,
        actor=event.actor,
        detail=event.detail,
    )


def log_line_out(line: LogLine) -> LogLineOut:
    return LogLineOut(
        line.task_id, line.task_name, line.attempt, line.number, line.at, line.stream, line.text
    )


def worker_out(session: WorkerSession) -> WorkerOut:
    return WorkerOut(
        id=session.id,
        name=session.name,
        host=session.host,
        pid=session.pid,
        started_at=session.started_at,
        beat=session.beat,
        ended_at=session.ended_at,
        end_reason=session.end_reason,
        queues=session.queues,
        concurrency=session.concurrency,
    )


def token_out(token: Token) -> TokenOut:
    return TokenOut(
        id=token.id,
        name=token.name,
        scopes=token.scopes,
        created_at=token.created_at,
        expires_at=token.expires_at,
        revoked_at=token.revoked_at,
        last_used_at=token.last_used_at,
    )
