"""Between saved workflows and the task-engine contract: summaries, details, versions, functions. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.api.workflows.wire import (
    FunctionOut,
    Functions,
    RealtimeTaskOut,
    SubscriptionOut,
    Uploaded,
    WorkflowDetail,
    Workflows,
    WorkflowStatus,
    WorkflowSummary,
    WorkflowTaskOut,
    WorkflowVersion,
)
from engine.definitions import to_yaml
from engine.model.realtime import RealtimeTask
from engine.model.records import SavedWorkflow
from engine.model.workflows import Workflow, WorkflowTask
from engine.store.functions import KnownFunction


def summary_of(saved: SavedWorkflow) -> WorkflowSummary:
    return _summary(saved, Workflow.from_json(saved.definition))


def _summary(saved: SavedWorkflow, workflow: Workflow) -> WorkflowSummary:
    return WorkflowSummary(
        id=saved.id,
        name=saved.name,
        description=saved.description,
        task_count=saved.task_count,
        created_at=saved.created_at,
        changed_at=saved.changed_at,
        status=WorkflowStatus.ENABLED if saved.is_enabled else WorkflowStatus.DISABLED,
        version=saved.version,
        cron_expr=workflow.cron,
        cron_enabled=None if workflow.cron is None else saved.is_enabled and saved.is_scheduled,
    )


def detail_of(saved: SavedWorkflow) -> WorkflowDetail:
    workflow = Workflow.from_json(saved.definition)
    every: list[WorkflowTask | RealtimeTask] = [*workflow.tasks, *workflow.realtime_tasks]
    return WorkflowDetail(
        **msgspec.structs.asdict(_summary(saved, workflow)),
        tasks=[WorkflowTaskOut(**_task(task)) for task in workflow.tasks],
        realtime_tasks=[_realtime_task(task) for task in workflow.realtime_tasks] or None,
        dependencies={task.name: list(task.depends_on) for task in every if task.depends_on},
    )


def _task(task: WorkflowTask | RealtimeTask) -> dict[str, Any]:
    return {
        "id": task.name,
        "name": task.name,
        "description": task.description,
        "dependencies": list(task.depends_on) or None,
        "timeout": None if task.timeout_ms is None else task.timeout_ms / 1000,
        "retry_count": task.retry_count or None,
    }


def _realtime_task(task: RealtimeTask) -> RealtimeTaskOut:
    subscriptions = [SubscriptionOut(each.event, each.function, each.priority) for each in task.subscriptions]
    return RealtimeTaskOut(
        **_task(task),
        mode=task.mode,
        type=task.type,
        function=task.function,
        protocol=None if task.endpoint is None else task.endpoint.protocol,
        collector=task.collector,
        subscriptions=subscriptions or None,
    )


def version_of(saved: SavedWorkflow) -> WorkflowVersion:
    return WorkflowVersion(**msgspec.structs.asdict(summary_of(saved)), definition=saved.definition)


def page_of(total: int, found: Sequence[SavedWorkflow], offset: int) -> Workflows:
    """A page of workflows, or of versions of one."""
    return Workflows(total, [summary_of(saved) for saved in found], offset + len(found) < total)


def uploaded(saved: Sequence[SavedWorkflow], given: Sequence[Workflow]) -> Uploaded:
    """In the order in which they were given."""
    by_name = {item.name: item for item in saved}
    summaries = [_summary(by_name[workflow.name], workflow) for workflow in given]
    return Uploaded(**msgspec.structs.asdict(summaries[0]), workflows=summaries)


def yaml_of(saved: SavedWorkflow) -> str:
    """A file that `upload` reads as the same workflow. Takes a while for a large one."""
    return to_yaml(Workflow.from_json(saved.definition))


# --- functions


def functions_of(total: int, found: Sequence[KnownFunction], offset: int) -> Functions:
    return Functions(total, [_function(each) for each in found], offset + len(found) < total)


def _function(found: KnownFunction) -> FunctionOut:
    return FunctionOut(
        name=found.name,
        description=found.description,
        origin=found.origin,
        params=found.schema,
        registered_at=found.registered_at,
        worker_count=found.worker_count,
        workers=list(found.workers),
        is_missing=not found.worker_count,
    )
