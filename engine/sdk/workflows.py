"""What an embedded engine does with workflows. `Engine` has these verbs; their runs are runs like others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from engine.definitions import to_yaml
from engine.errors import InvalidInput
from engine.functions.registry import FunctionRegistry
from engine.model.json import JSON
from engine.model.records import SavedWorkflow, WorkflowRun
from engine.model.schedules import ScheduleSpec
from engine.model.states import RunState
from engine.model.workflows import Workflow
from engine.operations import executions, functions, sagas, schedules, steps, stream_state, workflows
from engine.operations.sagas import SagaReport
from engine.operations.stream_state import Published
from engine.operations.submits import Accepted
from engine.sdk.authoring import WorkflowFunction
from engine.sdk.checks import Kinds
from engine.sdk.pages import check_page, check_states
from engine.sdk.requests import checked_params, execution_key
from engine.store.database import Database
from engine.store.functions import KnownFunction
from engine.store.schedules import Schedule

Definition = Workflow | WorkflowFunction[Any]


def _definition(given: Definition) -> Workflow:
    if isinstance(given, WorkflowFunction):
        return given.definition()
    if not isinstance(given, Workflow):
        raise InvalidInput(
            "a definition is an engine.Workflow or a function decorated with @workflow (engine.from_yaml "
            f"reads YAML), got {given!r:.80}"
        )
    return given


class Workflows:
    """The verbs. A workflow is meant by its id, its name, or, where it says so, by itself."""

    _functions: FunctionRegistry
    _kinds: Kinds | None

    @property
    def _database(self) -> Database:
        raise NotImplementedError

    # --- definitions

    async def save(self, *given: Definition, actor: str = "local") -> list[SavedWorkflow]:
        """Store each as the next version of the workflow of its name; all of them or none.

        Raises `WorkflowError` with everything that is wrong, functions without code among it.
        """
        found, kinds = [_definition(one) for one in given], self._kinds
        if kinds is None:
            return await workflows.save(self._database, found, actor=actor)
        return await workflows.save(
            self._database, found, kinds=kinds.registry, are_all=kinds.are_all, actor=actor
        )

    async def workflow(self, workflow: str, version: int | None = None) -> SavedWorkflow:
        """The newest version, or the one that is asked for."""
        return await workflows.get(self._database, workflow, version)

    async def list_workflows(self, *, limit: int | None = None, offset: int = 0) -> list[SavedWorkflow]:
        """Newest versions, last created first; all of them unless `limit` says otherwise."""
        check_page(limit, offset)
        return (await workflows.list_saved(self._database, limit=limit, offset=offset))[1]

    async def workflow_versions(
        self, workflow: str, *, limit: int | None = None, offset: int = 0
    ) -> list[SavedWorkflow]:
        """Newest first; all of them unless `limit` says otherwise."""
        check_page(limit, offset)
        return (await workflows.versions(self._database, workflow, limit=limit, offset=offset))[1]

    async def workflow_definition(self, workflow: str, version: int | None = None) -> str:
        """YAML that reads as the same workflow; of the newest version unless one is named."""
        saved = await workflows.get(self._database, workflow, version)
        return await asyncio.to_thread(to_yaml, Workflow.from_json(saved.definition))

    async def delete_workflow(self, workflow: str, *, actor: str = "local") -> None:
        """With all versions and schedules. Raises `Conflict` while runs of it have not ended."""
        await workflows.delete(self._database, workflow, actor=actor)

    async def enable_workflow(
        self, workflow: str, is_enabled: bool = True, *, actor: str = "local"
    ) -> SavedWorkflow:
        """A disabled workflow starts no runs, by schedule or otherwise; what runs goes on."""
        return await workflows.enable(self._database, workflow, is_enabled, actor=actor)

    # --- runs

    async def execute(
        self,
        workflow: Definition | str,
        params: Mapping[str, JSON] | None = None,
        *,
        version: int | None = None,
        key: str | None = None,
        actor: str = "local",
    ) -> Accepted:
        """Start a run. A definition is saved first, unless the newest version is just like it.

        `key` makes repeats within 24 hours return the same run.
        """
        if not isinstance(workflow, str):
            workflow = (await self._saved(_definition(workflow), actor)).id
        given, once = checked_params(params), None
        if key is not None:
            workflow = (await self.workflow(workflow, version)).id
            once = execution_key(key, workflow, given)
        return await executions.execute(
            self._database, workflow, given, version=version, idempotency=once, actor=actor
        )

    async def _saved(self, workflow: Workflow, actor: str) -> SavedWorkflow:
        newest = await workflows.find_named(self._database, workflow.name)
        if newest is not None and newest.definition == workflow.to_json():
            return newest
        [saved] = await self.save(workflow, actor=actor)
        return saved

    async def rerun(
        self, run_id: int, params: Mapping[str, JSON] | None = None, *, actor: str = "local"
    ) -> Accepted:
        """The same version once more, with some parameters changed; the new run knows the old one."""
        return await executions.rerun(self._database, run_id, checked_params(params), actor=actor)

    async def history(
        self,
        workflow: str | None = None,
        *,
        states: Iterable[RunState | str] = (),
        limit: int = 20,
        offset: int = 0,
        oldest_first: bool = False,
    ) -> list[WorkflowRun]:
        """Runs of a workflow, or of all of them: the newest 20 unless `limit` says otherwise."""
        check_page(limit, offset)
        _, found = await workflows.list_runs(
            self._database,
            workflow=workflow,
            states=check_states(states, RunState),
            limit=limit,
            offset=offset,
            is_oldest_first=oldest_first,
        )
        return found

    async def instance(self, run_id: int) -> WorkflowRun:
        """A run with its workflow, parameters and, if it failed, the first error. Raises `NotFound`."""
        return await workflows.get_run(self._database, run_id)

    async def signal(self, run_id: int, name: str, payload: JSON = None, *, actor: str = "local") -> int:
        """End one wait for this signal, now or later. Returns the signal's number within the run."""
        return await steps.send_signal(self._database, run_id, name, payload, actor=actor)

    async def publish(
        self, run_id: int, event_type: str, payload: JSON = None, *, actor: str = "local"
    ) -> Published:
        """Give an event to the event-driven tasks of a run that take its type; it is stored until they have.

        Raises `Conflict` if no task takes it, `Overloaded` if one has no room: then nobody got it.
        """
        return await stream_state.publish(self._database, run_id, event_type, payload, actor=actor)

    async def saga(self, run_id: int) -> SagaReport:
        """What is undone, or what would be if the run failed now."""
        return await sagas.get(self._database, run_id)

    async def retry_saga(self, run_id: int, *, actor: str = "local") -> SagaReport:
        """Run compensations that failed once more."""
        return await sagas.retry(self._database, run_id, actor=actor)

    async def skip_saga(
        self, run_id: int, names: Iterable[str], reason: str, *, actor: str = "local"
    ) -> SagaReport:
        """Give up single compensations that failed: no retry runs them. All of those named, or none."""
        return await sagas.skip(self._database, run_id, names, reason=reason, actor=actor)

    async def sign_off_saga(self, run_id: int, reason: str, *, actor: str = "local") -> SagaReport:
        """Declare that somebody has taken care of the compensations that failed."""
        return await sagas.sign_off(self._database, run_id, reason=reason, actor=actor)

    # --- schedules

    async def schedule(self, workflow: str, spec: ScheduleSpec, *, actor: str = "local") -> Schedule:
        """Run a workflow at these times. Raises `NotFound`, `Conflict` if the schedule's name is taken."""
        return await schedules.create(self._database, workflow, spec, actor=actor)

    async def get_schedule(self, schedule: str) -> Schedule:
        """By id or name. Raises `NotFound`."""
        return await schedules.get(self._database, schedule)

    async def list_schedules(
        self,
        workflow: str | None = None,
        *,
        is_enabled: bool | None = None,
        limit: int = 1_000,
        offset: int = 0,
    ) -> list[Schedule]:
        """By name; of one workflow or of all. The first 1000 unless `limit` says otherwise."""
        check_page(limit, offset)
        is_paused = None if is_enabled is None else not is_enabled
        _, found = await schedules.list_schedules(
            self._database, workflow=workflow, is_paused=is_paused, limit=limit, offset=offset
        )
        return found

    async def change_schedule(
        self, /, schedule: str, *, is_enabled: bool | None = None, actor: str = "local", **changes: Any
    ) -> Schedule:
        """`changes` are fields of `ScheduleSpec`. Raises `Conflict` if another schedule has the name."""
        if unknown := changes.keys() - _CHANGEABLE:
            known = ", ".join(sorted(_CHANGEABLE))
            raise InvalidInput(f"a schedule has no {', '.join(sorted(unknown))} (it has {known})")
        is_paused = None if is_enabled is None else not is_enabled
        return await schedules.change(self._database, schedule, changes, is_paused=is_paused, actor=actor)

    async def pause_schedule(self, schedule: str, *, actor: str = "local") -> Schedule:
        """After this returns it starts no run until it is resumed."""
        return await schedules.pause(self._database, schedule, actor=actor)

    async def resume_schedule(self, schedule: str, *, actor: str = "local") -> Schedule:
        """Go on with the next time from now."""
        return await schedules.resume(self._database, schedule, actor=actor)

    async def trigger_schedule(self, schedule: str, *, actor: str = "local") -> Accepted:
        """Start a run of it now, whatever its times, pause and overlap say."""
        return await schedules.trigger(self._database, schedule, actor=actor)

    async def upcoming(self, schedule: str, count: int = 10) -> list[datetime]:
        """Its next nominal times, in UTC; while it is paused those that would come if it were resumed now."""
        return await schedules.upcoming(self._database, schedule, count)

    async def delete_schedule(self, schedule: str, *, actor: str = "local") -> None:
        """Runs that it started go on."""
        await schedules.delete(self._database, schedule, actor=actor)

    # --- functions

    async def list_functions(
        self, *, is_missing: bool | None = None, limit: int = 1_000, offset: int = 0
    ) -> list[KnownFunction]:
        """All that some process has registered, by name, and which live workers have code for each. The first
        1000 unless `limit` says otherwise.
        """
        check_page(limit, offset)
        _, found = await functions.list_functions(
            self._database, is_missing=is_missing, limit=limit, offset=offset
        )
        return found

    async def missing_functions(self) -> list[str]:
        """Names that some process has registered and that have no code here."""
        return self._functions.missing(await functions.names(self._database))


_CHANGEABLE = frozenset(each.name for each in fields(ScheduleSpec))
