"""Between the wire models and workflows. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.definitions.source import Path
from engine.definitions.wire import DefinitionIn, JobIn, RealtimeTaskIn, TaskIn
from engine.model.parameters import Param
from engine.model.realtime import Backpressure, Endpoint, RealtimeTask, Reconnect, Subscription
from engine.model.workflows import FUNCTION, Callback, UndoFunction, Workflow, WorkflowTask

# What a field is called in YAML, if that is not its own name.
KEYS = {
    "function": "func_key",
    "depends_on": "dependencies",
    "timeout_ms": "timeout",
    "retry_interval_ms": "retry_interval",
    "flush_interval_ms": "flush_interval",
    "first_ms": "first",
    "max_ms": "max",
    "type": "task_type",
}
WORKFLOW_KEYS = {"name": "workflow_id", "mode": "execution_mode"}
TASK_KEYS = {"name": "task_id", **KEYS}
_FREE = {"params", "labels", "limits", "result_mapping"}  # whose keys are the user's own


def key_path(path: Path) -> Path:
    """The path in a definition of what has `path` in its workflow."""
    match path:
        case (("tasks" | "realtime_tasks") as name, index, *inner):
            return name, index, *_keys(inner)
        case (name, *inner):
            return WORKFLOW_KEYS.get(str(name), name), *inner
        case _:
            return ()


def _keys(inner: Sequence[str | int]) -> Path:
    steps: list[str | int] = []
    for position, step in enumerate(inner):
        if step in _FREE:
            return *steps, *inner[position:]
        steps.append(TASK_KEYS.get(step, step) if isinstance(step, str) else step)
    return tuple(steps)


def workflow_of(
    model: DefinitionIn, tasks: Sequence[WorkflowTask], realtime_tasks: Sequence[RealtimeTask]
) -> Workflow:
    return Workflow(
        name=model.workflow_id,
        description=model.description,
        params={name: Param(**dict(param)) for name, param in model.params.items()},
        tasks=tasks,
        realtime_tasks=realtime_tasks,
        mode=model.execution_mode,
        cron=model.cron,
        timezone=model.timezone,
        max_concurrent_task=model.max_concurrent_task,
        sub_task_error_tolerance=model.sub_task_error_tolerance,
        transactional=model.transactional,
        labels=model.labels,
    )


def task_of(model: TaskIn, jobs: Mapping[str, JobIn]) -> WorkflowTask:
    job = jobs.get(model.job_id or "", JobIn())
    return WorkflowTask(
        name=model.task_id,
        description=model.description or job.description,
        function=None if model.kind not in (None, FUNCTION) else model.func_key or job.func_key or None,
        kind=model.kind or FUNCTION,
        params=model.params,
        depends_on=model.dependencies,
        rule=model.rule,
        condition=model.condition,
        timeout_ms=_timeout(model, job),
        retry_count=model.retry_count,
        retry_interval_ms=model.retry_interval,
        queue=model.queue,
        priority=model.priority,
        limits=model.limits,
        required_params=model.required_params,
        result_mapping=model.result_mapping,
        compensation=None
        if model.compensation is None
        else UndoFunction(model.compensation.func_key, model.compensation.params),
        callbacks=[Callback(item.state, item.func_key, item.description) for item in model.callbacks],
        is_template=model.is_template,
    )


def realtime_task_of(model: RealtimeTaskIn, jobs: Mapping[str, JobIn]) -> RealtimeTask:
    job = jobs.get(model.job_id or "", JobIn())
    endpoint, reconnect = model.endpoint, model.reconnect
    return RealtimeTask(
        name=model.task_id,
        description=model.description or job.description,
        function=model.func_key or job.func_key or None,
        params=model.params,
        mode=model.mode,
        type=model.task_type,
        depends_on=model.dependencies,
        timeout_ms=_timeout(model, job),
        retry_count=model.retry_count,
        buffer_size=model.buffer_size,
        batch_size=model.batch_size,
        flush_interval_ms=model.flush_interval,
        endpoint=None if endpoint is None else Endpoint(endpoint.url, endpoint.protocol),
        reconnect=Reconnect(
            enabled=reconnect.enabled,
            max_attempts=reconnect.max_attempts,
            first_ms=reconnect.first,
            max_ms=reconnect.max,
            factor=reconnect.factor,
            jitter=reconnect.jitter,
        ),
        backpressure=Backpressure(**dict(model.backpressure)),
        data_handler=model.data_handler,
        error_handler=model.error_handler,
        subscriptions=[
            Subscription(item.event, item.func_key, item.priority, item.filter)
            for item in model.subscriptions
        ],
        collector=model.collector,
        collector_mode=model.collector_mode,
    )


def _timeout(model: TaskIn | RealtimeTaskIn, job: JobIn) -> int | None:
    """Zero is the engine's default, as the absence of a timeout is."""
    return (job.timeout if model.timeout is None else model.timeout) or None
