"""A database as a target: the operations themselves, without a server in between."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property

from engine.cli.graphs import CONTRACT, contract_task, filters, graph_of, key_of
from engine.cli.local_answers import now
from engine.cli.local_continuations import LocalContinuations
from engine.cli.local_plugins import LocalPlugins
from engine.cli.local_schedules import LocalSchedules
from engine.cli.local_workflows import LocalWorkflows
from engine.cli.wiring import SERVER_TOO, check_schema, open_database
from engine.client.documents import Document
from engine.client.rest import ContractTask, Submitted
from engine.executors.registry import ExecutorRegistry
from engine.model.json import MAX_INT
from engine.model.outcomes import NO_REASON
from engine.model.records import Event, LimitUse, LogLine, Run, Task, Token, WorkerSession
from engine.operations import limits, runs, submits, tasks, tokens, workers
from engine.sdk.configured import executor_settings
from engine.sdk.opening import shown
from engine.settings import Settings
from engine.store.database import Database

_LOOK_SECONDS = 0.1


class LocalTarget(LocalWorkflows, LocalSchedules, LocalPlugins, LocalContinuations):
    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        self.where = shown(database.url)

    def close(self) -> None:
        self.database.close()

    @cached_property
    def _registry(self) -> ExecutorRegistry:
        return ExecutorRegistry.from_entry_points(executor_settings(self.settings, is_local=True))

    # --- runs

    def submit(self, document: Document, key: str) -> Submitted:
        graph, contract = graph_of(document, self._registry)
        accepted = now(
            submits.submit(
                self.database,
                graph,
                contract=contract,
                key=key_of(document, key),
                known_kinds=self._registry.kinds(),
            )
        )
        return Submitted(list(accepted.task_ids), accepted.run_id, accepted.is_repeat)

    def runs(self, *, state: str | None, name: str | None, before: int | None, limit: int) -> list[Run]:
        return now(runs.list_runs(self.database, state=state, name=name, before=before, limit=limit))

    def run(self, run_id: int) -> Run:
        return now(runs.get(self.database, run_id))

    def tasks(
        self, run_id: int, *, state: str | None = None, after: int | None = None, limit: int = 1000
    ) -> list[Task]:
        return now(runs.tasks(self.database, run_id, state=state, after=after, limit=limit))

    def events(self, run_id: int, *, after: int, wait_seconds: float = 0.0) -> list[Event]:
        deadline = time.monotonic() + wait_seconds
        while True:
            found = now(runs.events(self.database, run_id, after=after))
            if found or time.monotonic() >= deadline:
                return found
            time.sleep(_LOOK_SECONDS)

    def logs(self, run_id: int, *, task_name: str | None, limit: int, offset: int) -> list[LogLine]:
        return now(runs.logs(self.database, run_id, task_name=task_name, limit=limit, offset=offset))

    def pause(self, run_id: int) -> Run:
        return now(runs.hold(self.database, run_id))

    def resume(self, run_id: int) -> Run:
        return now(runs.resume(self.database, run_id))

    def cancel(self, run_id: int, *, reason: str | None) -> Run:
        return now(runs.cancel(self.database, run_id, reason=reason or NO_REASON))

    def retry(self, run_id: int) -> Run:
        return now(runs.retry(self.database, run_id))

    def delete(self, run_id: int) -> None:
        now(runs.delete(self.database, run_id))

    # --- tasks of the ExecGo contract

    def contract_task(self, task_id: str) -> ContractTask:
        return self._shown(now(tasks.get_aliased(self.database, CONTRACT, task_id)))

    def contract_tasks(
        self, *, status: str | None, type_: str | None, limit: int | None, offset: int
    ) -> list[ContractTask]:
        wanted = filters(status, type_, self._registry)
        found = now(tasks.list_aliased(self.database, CONTRACT, limit=limit, offset=offset, **wanted))
        return [self._shown(task) for task in found]

    def cancel_contract_task(self, task_id: str) -> ContractTask:
        task = now(tasks.get_aliased(self.database, CONTRACT, task_id))
        return self._shown(now(tasks.cancel(self.database, task.id)))

    def delete_contract_task(self, task_id: str) -> None:
        now(tasks.forget_alias(self.database, CONTRACT, task_id))

    def _shown(self, task: Task) -> ContractTask:
        return contract_task(task, self._registry)

    # --- workers, limits and tokens

    def workers(self, *, only_live: bool) -> list[WorkerSession]:
        return now(workers.list_sessions(self.database, only_live=only_live))

    def limits(self) -> list[LimitUse]:
        return now(limits.list_limits(self.database, limit=MAX_INT))

    def set_limit(self, key: str, at_most: int) -> LimitUse:
        return now(limits.put(self.database, key, at_most))

    def lift_limit(self, key: str) -> None:
        now(limits.lift(self.database, key))

    def tokens(self) -> list[Token]:
        return now(tokens.list_tokens(self.database))

    def create_token(self, name: str, scopes: Sequence[str], expires_at: datetime | None) -> str:
        return now(tokens.create(self.database, name=name, scopes=list(scopes), expires_at=expires_at))

    def revoke_token(self, token_id: str) -> None:
        now(tokens.revoke(self.database, token_id))


def open_target(settings: Settings, url: str | None) -> LocalTarget:
    """Raises `StoreUnavailable` or `SchemaMismatch`. Never makes a database file."""
    assert url is None
    database = open_database(settings, must_exist=True, instead=SERVER_TOO)
    try:
        check_schema(database)
    except BaseException:
        database.close()
        raise
    return LocalTarget(database, settings)
