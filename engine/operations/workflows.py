"""Workflows: save, show, enable, delete; and the runs that are theirs."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from typing import Protocol

from engine.errors import Conflict, InvalidInput, NotFound
from engine.expressions.checks import reads_of
from engine.model.json import JSON
from engine.model.records import SavedWorkflow, WorkflowRun
from engine.model.workflow_graph import REALTIME
from engine.model.workflow_rules import Checks, check
from engine.model.workflows import FUNCTION, Workflow
from engine.operations import functions, schedules
from engine.operations.executions import find
from engine.store import plugins
from engine.store import workflows as store
from engine.store.database import Database, Transaction

_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # no letters that look alike
_ID = re.compile(f"wf-[{_ALPHABET}]{{12}}")


class Kinds(Protocol):
    """Who performs tasks: an `ExecutorRegistry`."""

    def kinds(self) -> list[str]: ...

    def problem(self, kind: str, params: JSON) -> str | None: ...


async def checks(database: Database, kinds: Kinds | None = None, *, are_all: bool = True) -> Checks:
    """What workflows are checked against: registered functions and, if they are given, `kinds`.

    Unless these `are_all` there are, a kind may be one of those that others perform.
    """
    known = None if kinds is None or not are_all else {*kinds.kinds(), FUNCTION, REALTIME}
    names = await functions.names(database)
    problem = None if kinds is None else kinds.problem
    return Checks(functions=names, kinds=known, condition=reads_of, params=problem)


async def save(
    database: Database,
    workflows: Sequence[Workflow],
    *,
    kinds: Kinds | None = None,
    are_all: bool = True,
    actor: str = "local",
) -> list[SavedWorkflow]:
    """Store each as the next version of the workflow of its name; all of them or none. See `checks`.

    Raises `WorkflowError` with everything that is wrong.
    """
    against = await checks(database, kinds, are_all=are_all)
    await asyncio.to_thread(_check, workflows, against)
    return await database.run(save_within, workflows, actor=actor)


def _check(workflows: Sequence[Workflow], against: Checks) -> None:
    for workflow in workflows:
        check(workflow, against)


def save_within(tx: Transaction, workflows: Sequence[Workflow]) -> list[SavedWorkflow]:
    """`save` inside a transaction that somebody else commits."""
    # In one order of names: two that save the same ones would wait for each other.
    return [_save(tx, workflow) for workflow in sorted(workflows, key=lambda workflow: workflow.name)]


def _save(tx: Transaction, workflow: Workflow) -> SavedWorkflow:
    if _ID.fullmatch(workflow.name):
        raise InvalidInput(f'"{workflow.name}" is an id of a workflow, not a name: ids are looked for first')
    saved = store.save(
        tx,
        new_id(),
        workflow.name,
        workflow.to_json(),
        description=workflow.description,
        task_count=len(workflow.tasks) + len(workflow.realtime_tasks),
    )
    schedules.follow(tx, saved, workflow)
    return find(tx, saved.id)  # with the schedule as it is now


def new_id() -> str:
    return "wf-" + "".join(secrets.choice(_ALPHABET) for _ in range(12))


async def get(database: Database, key: str, version: int | None = None) -> SavedWorkflow:
    """By id or name; the newest version unless one is named."""
    return await database.read(find, key, version)


async def find_named(database: Database, name: str) -> SavedWorkflow | None:
    """The newest version of the workflow of this name, if there is one."""
    found = await database.read(store.find, name)
    return found if found is not None and found.name == name else None


async def list_saved(
    database: Database, *, limit: int | None = None, offset: int = 0
) -> tuple[int, list[SavedWorkflow]]:
    """How many there are, and some of them, last created first."""
    return await database.read(lambda tx: store.list_saved(tx, limit=limit, offset=offset))


async def versions(
    database: Database, key: str, *, limit: int | None = None, offset: int = 0
) -> tuple[int, list[SavedWorkflow]]:
    """How many there are of a workflow, and some of them, newest first."""
    return await database.read(
        lambda tx: store.list_versions(tx, find(tx, key).id, limit=limit, offset=offset)
    )


async def enable(database: Database, key: str, is_enabled: bool, *, actor: str = "local") -> SavedWorkflow:
    """A disabled workflow cannot be executed; what runs goes on."""
    return await database.run(_enable, key, is_enabled, actor=actor)


def _enable(tx: Transaction, key: str, is_enabled: bool) -> SavedWorkflow:
    store.enable(tx, find(tx, key).id, is_enabled)
    return find(tx, key)


async def delete(database: Database, key: str, *, actor: str = "local") -> str:
    """Remove a workflow with all its versions; returns its id. Finished runs stay until they are pruned."""
    return await database.run(_delete, key, actor=actor)


def _delete(tx: Transaction, key: str) -> str:
    found = find(tx, key)
    store.lock(tx, found.id)
    if open_runs := store.unfinished(tx, found.id):
        listed = ", ".join(map(str, open_runs[:5]))
        raise Conflict(
            f"workflow {found.name!r} has unfinished runs ({listed}); cancel them or let them end first"
        )
    schedules.forget(tx, found.id)
    plugins.forget(tx, found.id)
    store.delete(tx, found.id)
    return found.id


# --- runs


async def get_run(database: Database, run_id: int) -> WorkflowRun:
    found = await database.read(store.get_run, run_id)
    if found is None:
        raise NotFound(f"instance not found: {run_id}")
    return found


async def list_runs(
    database: Database,
    *,
    workflow: str | None = None,
    states: Sequence[str] = (),
    limit: int = 20,
    offset: int = 0,
    is_oldest_first: bool = False,
) -> tuple[int, list[WorkflowRun]]:
    """How many runs match, and a page of them. Raises `NotFound` for an unknown workflow."""

    def read(tx: Transaction) -> tuple[int, list[WorkflowRun]]:
        return store.list_runs(
            tx,
            workflow_id=None if workflow is None else find(tx, workflow).id,
            states=states,
            limit=limit,
            offset=offset,
            is_oldest_first=is_oldest_first,
        )

    return await database.read(read)
