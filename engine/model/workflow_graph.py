"""The graph of one run of a workflow, with the run's parameters put in. Pure.

A task that calls a function has the kind `function` and the parameters `{"function": name, "params": {…}}`;
any other has its own kind and parameters; a realtime task has the kind `realtime` and is described whole.
What has to wait for results stands beside the parameters, in `TaskSpec.inputs`: see `model.inputs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from engine.errors import Fault, ParamsError, WorkflowError, path_text
from engine.model import shapes
from engine.model.graph import DEFAULT_QUEUE, Compensation, Dependency, Graph, Limit, TaskSpec
from engine.model.inputs import Inputs
from engine.model.json import JSON
from engine.model.placeholders import BadPlaceholder, Bound, Path, Pending, bind, missing_text, text_of
from engine.model.realtime import RealtimeMode, RealtimeTask
from engine.model.retry import Backoff, RetryPolicy
from engine.model.run_defaults import NO_OPTIONS, FunctionOptions, RunDefaults
from engine.model.workflows import FUNCTION, Workflow, WorkflowTask

REALTIME = "realtime"
T = TypeVar("T")
_NO_FAULT = 2**31 - 1  # crashes: what runs for months meets many, and goes on with another worker each time
_DEFAULTS = RunDefaults()


def graph_of(
    workflow: Workflow,
    params: Mapping[str, JSON] | None = None,
    *,
    defaults: RunDefaults = _DEFAULTS,
    options: Mapping[str, FunctionOptions] | None = None,
    concurrency_key: str | None = None,
) -> Graph:
    """The graph of a valid workflow; `params` are the effective ones, `options` those of its functions by
    name. A workflow without tasks has an empty graph, which `model.graph.plan` refuses: such a run has
    nothing to do.

    If the workflow has a `max_concurrent_task`, every task carries it as the limit `concurrency_key`. Raises
    `ParamsError` that tells all parameters that are missing, each with its first place.
    """
    most = workflow.max_concurrent_task
    own = () if concurrency_key is None or most is None else (Limit(concurrency_key, most),)
    return _Translation(params or {}, defaults, options or {}, own).graph(workflow)


def workflow_key(workflow_id: str) -> str:
    """The limit on tasks of one workflow that run at once."""
    return f"workflow {workflow_id}"


def bounded(spec: TaskSpec, timeout_ms: int | None) -> TaskSpec:
    """With `timeout_ms` if it has none of its own, unless it is a stream without an end: what is not one-shot
    runs on, and however many workers die under it is no fault of it."""
    mode = spec.params.get("mode") if spec.kind == REALTIME and isinstance(spec.params, dict) else None
    if mode in (RealtimeMode.CONTINUOUS, RealtimeMode.EVENT_DRIVEN):
        return replace(spec, retry=replace(spec.retry, max_crashes=_NO_FAULT))
    return replace(spec, timeout_ms=timeout_ms) if spec.timeout_ms is None else spec


def retry_policy(
    count: int | None,
    interval_ms: int | None,
    defaults: RunDefaults = _DEFAULTS,
    own: RetryPolicy | None = None,
) -> RetryPolicy:
    """`count` attempts more, each after the same wait or after 1 s, 2 s, 4 s … (contract section 5.2).

    Without a count it is as `own`, what the function says, and as the engine has it without that.
    """
    if count is None and own is not None:
        if interval_ms is None and own != RetryPolicy(max_attempts=own.max_attempts):
            return own
        count = own.max_attempts - 1
    if count is None:
        count = defaults.retry_count
    if not count:
        return RetryPolicy()
    if interval_ms is not None:
        fixed = RetryPolicy(count + 1, backoff=Backoff.FIXED, jitter=0)
        return replace(fixed, initial_ms=interval_ms, max_ms=interval_ms)
    first_ms, most_ms = defaults.retry_delay_ms, defaults.max_retry_delay_ms
    return RetryPolicy(count + 1, initial_ms=first_ms, max_ms=most_ms, jitter=0)


class _Translation:
    """One run; gathers what is missing in any of its tasks."""

    def __init__(
        self,
        params: Mapping[str, JSON],
        defaults: RunDefaults,
        options: Mapping[str, FunctionOptions],
        limits: tuple[Limit, ...],
    ) -> None:
        self._params = params
        self._defaults = defaults
        self._options = options
        self._limits = limits
        self._tolerance = 0.0
        self._missing: dict[str, str] = {}
        self._faults: list[Fault] = []

    def graph(self, workflow: Workflow) -> Graph:
        self._tolerance = workflow.sub_task_error_tolerance
        specs = [*self._specs(workflow)]
        self._raise_faults()
        return Graph(tuple(specs), name=workflow.name, labels=dict(workflow.labels))

    def _bound(self, path: Path, value: JSON) -> Bound:
        """`value` with the run's parameters. What is missing is noted with its place."""
        try:
            found = bind(value, self._params)
        except BadPlaceholder as error:
            raise WorkflowError([Fault(path, str(error))]) from None
        for name, place in found.missing.items():
            self._missing.setdefault(name, path_text((*path, *place)))
        self._faults += (fault._replace(path=(*path, *fault.path)) for fault in found.faults)
        return found

    def _raise_faults(self) -> None:
        missing = [missing_text(self._missing)] if self._missing else []
        if lines := [*missing, *map(str, self._faults)]:
            raise ParamsError("\n".join(lines))

    def _specs(self, workflow: Workflow) -> Iterator[TaskSpec]:
        for index, task in enumerate(workflow.tasks):
            yield self._spec(("tasks", index), task)
        for index, realtime in enumerate(workflow.realtime_tasks):
            yield self._realtime_spec(("realtime_tasks", index), realtime)

    def _spec(self, path: Path, task: WorkflowTask) -> TaskSpec:
        bound = self._bound((*path, "params"), task.params)
        calls = task.kind == FUNCTION
        own = self._own(task.function)
        timeout_ms = _first(task.timeout_ms, own.timeout_ms, self._defaults.timeout_ms)
        retry = retry_policy(task.retry_count, task.retry_interval_ms, self._defaults, own.retry)
        return TaskSpec(
            name=task.name,
            kind=task.kind,
            params=_call(task.function, bound.value) if calls else bound.value,
            depends_on=tuple(map(Dependency, task.depends_on)),
            rule=task.rule,
            queue=_first(task.queue, own.queue, DEFAULT_QUEUE),
            priority=_first(task.priority, own.priority, 0),
            timeout_ms=timeout_ms,
            retry=retry,
            inputs=self._inputs(task, bound, ("params",) if calls else ()).to_json(),
            compensation=self._compensation(path, task, timeout_ms, retry),
            limits=self._limits_of(path, task),
        )

    def _own(self, function: str | None) -> FunctionOptions:
        return NO_OPTIONS if function is None else self._options.get(function, NO_OPTIONS)

    def _inputs(self, task: WorkflowTask, bound: Bound, at: Path) -> Inputs:
        looks = bool(task.required_params or task.result_mapping)
        return Inputs(
            references=tuple(Pending((*at, *pending.at), pending.parts) for pending in bound.pending),
            mapping=dict(task.result_mapping),
            required=tuple(task.required_params),
            depends_on=tuple(task.depends_on) if looks else (),
            condition=task.condition,
            tolerance=self._tolerance if task.is_template else 0.0,
            at=at,
        )

    def _limits_of(self, path: Path, task: WorkflowTask) -> tuple[Limit, ...]:
        limits = _first(task.limits, self._own(task.function).limits, {})
        keys = self._bound((*path, "limits"), [*limits]).value
        return *self._limits, *map(Limit, map(text_of, keys), limits.values())

    def _compensation(
        self, path: Path, task: WorkflowTask, timeout_ms: int, retry: RetryPolicy
    ) -> Compensation | None:
        undo = task.compensation
        if undo is None:
            return None
        bound = self._bound((*path, "compensation", "params"), undo.params)
        own = self._own(undo.function)
        if own.retry is not None:
            retry = retry_policy(None, None, self._defaults, own.retry)
        call = _call(undo.function, bound.value)
        return Compensation(FUNCTION, call, _first(own.timeout_ms, timeout_ms), retry)

    def _realtime_spec(self, path: Path, task: RealtimeTask) -> TaskSpec:
        bound = self._bound((*path, "params"), task.params)
        described = {**shapes.to_json(task), "params": bound.value}
        for name in ("name", "description", "depends_on", "timeout_ms", "retry_count"):
            described.pop(name, None)
        spec = TaskSpec(
            name=task.name,
            kind=REALTIME,
            params=described,
            depends_on=tuple(map(Dependency, task.depends_on)),
            timeout_ms=task.timeout_ms,
            retry=retry_policy(task.retry_count, None, self._defaults),
            limits=self._limits,
        )
        return bounded(spec, self._defaults.timeout_ms)


def _first(*given: T | None) -> T:
    """The first that is not None; the last one never is."""
    return next(value for value in given if value is not None)


def _call(function: str | None, params: JSON) -> dict[str, Any]:
    return {"function": function, "params": params or {}}
