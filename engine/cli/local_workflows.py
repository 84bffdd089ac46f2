"""Workflows and instances of a database, as the API answers them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from engine.api.bodies import fingerprint
from engine.api.run_translation import id_of
from engine.api.workflows import wire
from engine.api.workflows import workflow_translation as translation
from engine.api.workflows.events import EventTaken
from engine.api.workflows.translation import (
    MAX_IDS,
    RUN_STATE,
    TERMS,
    apply_skips,
    detail_of,
    summary_of,
    task_instance_of,
)
from engine.cli import definitions
from engine.cli.local_answers import data_of, now
from engine.cli.workflow_verbs import Data
from engine.executors.registry import ExecutorRegistry
from engine.model.json import JSON
from engine.model.outcomes import NO_REASON
from engine.model.records import Task, WorkflowRun
from engine.model.states import TaskState
from engine.operations import executions, runs, stream_state, workflows
from engine.operations.submits import Key
from engine.store.database import Database

_PAGE = 5_000
_UNFINISHED = (TaskState.RUNNING, TaskState.BLOCKED, TaskState.AVAILABLE, TaskState.HELD)


class LocalWorkflows:
    """The verbs of `engine.cli.workflow_verbs`."""

    database: Database

    @property
    def _registry(self) -> ExecutorRegistry:
        raise NotImplementedError

    # --- workflows

    def upload_workflows(self, texts: Mapping[str, str]) -> Data:
        kinds = self._registry
        found = definitions.checked(texts, now(workflows.checks(self.database, kinds)))
        saved = now(workflows.save(self.database, found, kinds=kinds))
        return data_of(translation.uploaded(saved, found))

    def workflows(self, *, limit: int | None, offset: int) -> Data:
        total, found = now(workflows.list_saved(self.database, limit=limit, offset=offset))
        return data_of(translation.page_of(total, found, offset))

    def workflow(self, workflow: str, version: int | None = None) -> Data:
        return data_of(translation.detail_of(now(workflows.get(self.database, workflow, version))))

    def workflow_versions(self, workflow: str, *, limit: int, offset: int) -> Data:
        total, found = now(workflows.versions(self.database, workflow, limit=limit, offset=offset))
        return data_of(translation.page_of(total, found, offset))

    def workflow_definition(self, workflow: str, version: int | None = None) -> str:
        return translation.yaml_of(now(workflows.get(self.database, workflow, version)))

    def enable_workflow(self, workflow: str, is_enabled: bool = True) -> Data:
        saved = now(workflows.enable(self.database, workflow, is_enabled))
        return data_of(wire.Message(f"workflow {'enabled' if is_enabled else 'disabled'}", saved.id))

    def delete_workflow(self, workflow: str) -> Data:
        return data_of(wire.Message("workflow deleted", now(workflows.delete(self.database, workflow))))

    def execute(self, workflow: str, params: Mapping[str, JSON], *, key: str) -> Data:
        segment = workflow.replace("%", "%25").replace("/", "%2F")  # as in the server's path
        scope = f"local POST /api/v1/workflows/{segment}/execute"
        idempotency = Key(scope, key, fingerprint([params]))
        accepted = now(executions.execute(self.database, workflow, params, idempotency=idempotency))
        return data_of(wire.Started(str(accepted.run_id), "instance started"))

    def history(self, workflow: str, *, status: str | None, limit: int, offset: int, order: str) -> Data:
        return self._instances(
            status, limit, offset, workflow=workflow, is_oldest_first=order == wire.Order.OLDEST_FIRST
        )

    # --- instances

    def instances(self, *, status: str | None, limit: int, offset: int) -> Data:
        return self._instances(status, limit, offset)

    def _instances(self, status: str | None, limit: int, offset: int, **wanted: Any) -> Data:
        states = () if status is None else (RUN_STATE[wire.InstanceStatus(status)],)
        total, found = now(
            workflows.list_runs(self.database, states=states, limit=limit, offset=offset, **wanted)
        )
        return data_of(wire.Instances(total, list(map(summary_of, found)), offset + limit < total))

    def instance(self, instance_id: str) -> Data:
        found = self._run(instance_id)
        states = _UNFINISHED if found.run.finished_at is None else ()
        skips = now(runs.skips(self.database, found.run.id))
        return data_of(detail_of(found, self._listed(found.run.id, states), skips))

    def _listed(self, run_id: int, states: Collection[TaskState]) -> list[Task]:
        return [
            task
            for state in states
            for task in now(runs.tasks(self.database, run_id, state=state, limit=MAX_IDS))
        ]

    def instance_tasks(self, instance_id: str) -> list[Data]:
        run = self._run(instance_id).run
        found: list[wire.TaskInstance] = []
        after: int | None = None
        while True:
            page = now(runs.tasks(self.database, run.id, after=after, limit=_PAGE))
            found += [task_instance_of(task, run) for task in page]
            if len(page) < _PAGE:
                break
            after = page[-1].id
        apply_skips(found, now(runs.skips(self.database, run.id)))
        return [data_of(task) for task in found]

    def pause_instance(self, instance_id: str) -> Data:
        run = now(runs.hold(self.database, self._run(instance_id).run.id, terms=TERMS))
        return data_of(wire.Message("instance paused", str(run.id)))

    def resume_instance(self, instance_id: str) -> Data:
        run = now(runs.resume(self.database, self._run(instance_id).run.id, terms=TERMS))
        return data_of(wire.Message("instance resumed", str(run.id)))

    def cancel_instance(self, instance_id: str, reason: str | None = None) -> Data:
        run_id = self._run(instance_id).run.id
        run = now(runs.cancel(self.database, run_id, reason=reason or NO_REASON, terms=TERMS))
        return data_of(wire.Message("instance cancelled", str(run.id)))

    def retry_instance(self, instance_id: str) -> Data:
        run = now(runs.retry(self.database, self._run(instance_id).run.id, terms=TERMS))
        return data_of(wire.Message("instance goes on", str(run.id)))

    def rerun_instance(self, instance_id: str, params: Mapping[str, JSON]) -> Data:
        accepted = now(executions.rerun(self.database, self._run(instance_id).run.id, params))
        return data_of(wire.Started(str(accepted.run_id), "instance started"))

    def publish(self, instance_id: str, event_type: str, payload: JSON = None) -> Data:
        run_id = self._run(instance_id).run.id
        published = now(stream_state.publish(self.database, run_id, event_type, payload))
        return data_of(EventTaken(str(run_id), published.id, event_type, published.tasks, published.dropped))

    def _run(self, instance_id: str) -> WorkflowRun:
        return now(workflows.get_run(self.database, id_of(instance_id, "instance")))
