"""What the tasks of a workflow refer to: parameters of the run, results of tasks before them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from engine.errors import Fault, InvalidInput, path_text
from engine.model import workflow_edges
from engine.model.json import JSON
from engine.model.parameters import Param
from engine.model.placeholders import BadPlaceholder, Path, Reference, references
from engine.model.realtime import RealtimeTask
from engine.model.similar import near
from engine.model.workflow_edges import Tasks, Upstream
from engine.model.workflows import Workflow, WorkflowTask

Reading = tuple[str, str, Fault]  # a task, another that it reads, and the fault if that is not upstream


class Reads(NamedTuple):
    """What a condition reads: tasks, and parameters of its own task without which it can never hold."""

    tasks: Collection[str] = ()
    params: Collection[str] = ()


Condition = Callable[[str], Reads]


def param_names(workflow: Workflow) -> Iterator[str]:
    """The parameters of a run that any task refers to, declared or not."""
    tasks: list[WorkflowTask | RealtimeTask] = [*workflow.tasks, *workflow.realtime_tasks]
    for task in tasks:
        for _, reference in _of_task(task):
            if isinstance(reference, Reference) and reference.param is not None:
                yield reference.param


def faults(
    declared: Mapping[str, Param], tasks: Tasks, upstream: Upstream, condition: Condition | None
) -> Iterator[Fault]:
    """What is no reference, or one to what is not there; of conditions too, if `condition` can read them."""
    read: list[Reading] = []
    for path, task in tasks:
        for place, reference in _of_task(task, declared):
            where = (*path, *place)
            if isinstance(reference, BadPlaceholder):
                yield Fault(where, str(reference))
            elif reference.task is None:
                if reference.is_declared and reference.param not in declared:
                    known = near(str(reference.param), declared)
                    yield Fault(where, f"{reference.text}: the workflow declares no such parameter{known}")
            elif not isinstance(task, WorkflowTask) or place[0] != "params":
                yield Fault(where, f"{reference.text}: results of tasks are not available here")
            else:
                read.append((task.name, reference.task, Fault(where, reference.text)))
        if isinstance(task, WorkflowTask) and task.condition and condition is not None:
            where = (*path, "condition")
            try:
                reads = condition(task.condition)
            except (ValueError, InvalidInput) as error:
                yield Fault(where, str(error))
                continue
            read += ((task.name, other, Fault(where, "")) for other in reads.tasks)
            yield from (Fault(where, message) for message in _lacking(task, reads.params, declared))
    yield from _not_upstream(upstream, read)


def _lacking(task: WorkflowTask, names: Collection[str], declared: Collection[str]) -> Iterator[str]:
    if not isinstance(task.params, Mapping | None):  # a placeholder may stand for all of them
        return
    own = {name for name in (*(task.params or ()), *task.result_mapping) if isinstance(name, str)}
    for name in sorted({*names} - own):
        advice = (
            f"; params are its own, add {name}: ${{{name}}} to them" if name in declared else near(name, own)
        )
        yield f"{path_text(('params', name))}: the task has no such parameter{advice}"


def _not_upstream(upstream: Upstream, read: list[Reading]) -> Iterator[Fault]:
    known = [(task, other, fault) for task, other, fault in read if other in upstream]
    for _, other, fault in read:
        if other not in upstream:
            yield _telling(fault, f"there is no task {_quoted(other)}{near(other, upstream)}")
    pairs = workflow_edges.upstream_pairs(upstream, {(task, other) for task, other, _ in known})
    if pairs is not None:
        for task, other, fault in known:
            if (task, other) not in pairs:
                yield _telling(fault, f"{_quoted(other)} is not upstream of {_quoted(task)}")


def _telling(fault: Fault, message: str) -> Fault:
    return fault._replace(message=": ".join(filter(None, (fault.message, message))))


def _of_task(
    task: WorkflowTask | RealtimeTask, declared: Collection[str] = ()
) -> Iterator[tuple[Path, Reference | BadPlaceholder]]:
    texts: dict[Path, JSON] = {("params",): task.params}
    if isinstance(task, WorkflowTask):
        texts["limits",] = [*(task.limits or ())]
        if task.compensation is not None:
            texts["compensation", "params"] = task.compensation.params
    for start, value in texts.items():
        try:
            yield from (((*start, *place), reference) for place, reference in references(value, declared))
        except BadPlaceholder as error:
            yield start, error


def _quoted(name: str) -> str:
    return f'"{name[:80]}"'
