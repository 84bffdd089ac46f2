"""Runs: submit, read, hold, resume, cancel, retry, delete, prune."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import Conflict, IdempotencyMismatch, NotFound, UnknownKind
from engine.model.graph import Graph, Plan, plan
from engine.model.records import Event, LogLine, Run, Task
from engine.model.states import FINAL_RUN_STATES, RunState
from engine.store import aliases, keys, queries, removal, submits
from engine.store import runs as store
from engine.store.database import Database, Transaction
from engine.store.workers import forget

KEY_SECONDS = 24 * 3600
_PRUNE_RUNS = 50  # in one transaction
_PRUNE_TASKS = 20_000  # likewise
_SMALL = 100  # tasks; larger graphs do not make others wait for their commit
_LARGE = 2_000  # tasks; larger graphs are checked in a thread, so that the event loop goes on


@dataclass(frozen=True, slots=True)
class Key:
    """An idempotency key, with a hash of the canonical request body it stands for."""

    scope: str
    key: str
    fingerprint: str

    @property
    def name(self) -> tuple[str, str]:
        return self.scope, self.key


@dataclass(frozen=True, slots=True)
class Accepted:
    run_id: int
    task_ids: dict[str, int]  # by task name, in the order of submission
    is_repeat: bool = False  # an idempotency key met its own earlier submit


# --- submit


@dataclass(frozen=True, slots=True)
class Submission:
    """A checked graph on its way into the database. With `contract`, each task's name becomes (or moves)
    that contract's alias."""

    plan: Plan
    actor: str = "local"
    contract: str | None = None
    key: Key | None = None


async def submit(
    database: Database,
    graph: Graph,
    *,
    actor: str = "local",
    contract: str | None = None,
    key: Key | None = None,
    known_kinds: Collection[str] | None = None,
) -> Accepted:
    """Store a graph as a new run: the whole of it, durably, or nothing.

    Small graphs that are submitted at the same time share a commit. Raises `GraphError`, `UnknownKind`,
    `IdempotencyMismatch`; nothing was written then.
    """
    if len(graph.tasks) < _LARGE:
        checked = check(graph, known_kinds)
    else:
        checked = await asyncio.to_thread(check, graph, known_kinds)
    submission = Submission(checked, actor, contract, key)
    if len(graph.tasks) <= _SMALL:
        return await database.together(submit_together, submission)
    return await database.run(submit_within, submission)


async def submit_many(
    database: Database,
    graphs: Sequence[Graph],
    *,
    actor: str = "local",
    known_kinds: Collection[str] | None = None,
) -> list[Accepted]:
    """Store many graphs in one transaction, one run each; if one is wrong, none is stored."""
    submissions = [Submission(check(graph, known_kinds), actor) for graph in graphs]
    return await database.run(submit_all_within, submissions)


def check(graph: Graph, known_kinds: Collection[str] | None = None) -> Plan:
    """Validate a graph; with `known_kinds`, also that somebody can perform every task."""
    checked = plan(graph)
    if known_kinds is not None:
        for task in graph.tasks:
            if task.kind not in known_kinds:
                raise UnknownKind(task.kind, sorted(known_kinds))
    return checked


def submit_within(tx: Transaction, submission: Submission) -> Accepted:
    """`submit` inside a transaction that somebody else commits (or rolls back: then there is no run)."""
    return submit_all_within(tx, [submission])[0]


def submit_all_within(tx: Transaction, submissions: Sequence[Submission]) -> list[Accepted]:
    """`submit_many` inside a transaction that somebody else commits."""
    accepted = []
    for answer in submit_together(tx, submissions):
        if isinstance(answer, IdempotencyMismatch):
            raise answer
        accepted.append(answer)
    return accepted


def submit_together(
    tx: Transaction, submissions: Sequence[Submission]
) -> list[Accepted | IdempotencyMismatch]:
    """Store what is new among `submissions`, in their order; the others get the answer of their key."""
    bound = keys.find_keys(tx, {item.key.name for item in submissions if item.key is not None})
    fresh: dict[int, Submission] = {}
    firsts = set(bound)
    for index, item in enumerate(submissions):
        if item.key is None or item.key.name not in firsts:
            fresh[index] = item
            firsts |= {item.key.name} if item.key is not None else set()
    accepted = dict(zip(fresh, _insert(tx, list(fresh.values())), strict=True))
    new = {
        item.key.name: keys.BoundKey(item.key.fingerprint, accepted[index].run_id, accepted[index].task_ids)
        for index, item in fresh.items()
        if item.key is not None
    }
    keys.insert_keys(tx, new)
    submits.count_submitted(tx, [item.plan for item in fresh.values()])
    bound |= new
    return [
        accepted[index] if index in accepted else _repeat(item.key, bound)
        for index, item in enumerate(submissions)
    ]


def _insert(tx: Transaction, submissions: Sequence[Submission]) -> list[Accepted]:
    plans = [item.plan for item in submissions]
    if not plans:
        return []
    accepted = [
        Accepted(
            written.run_id,
            {task.name: task_id for task, task_id in zip(checked.graph.tasks, written.task_ids, strict=True)},
        )
        for checked, written in zip(
            plans, submits.insert_graphs(tx, plans, [item.actor for item in submissions]), strict=True
        )
    ]
    aliases.point(
        tx,
        {
            (item.contract, name): task_id
            for item, answer in zip(submissions, accepted, strict=True)
            if item.contract is not None
            for name, task_id in answer.task_ids.items()
        },
    )
    return accepted


def _repeat(
    key: Key | None, bound: Mapping[tuple[str, str], keys.BoundKey]
) -> Accepted | IdempotencyMismatch:
    assert key is not None
    earlier = bound[key.name]
    if earlier.fingerprint != key.fingerprint:
        return IdempotencyMismatch(f"idempotency key {key.key!r} was used before with a different request")
    return Accepted(earlier.run_id, earlier.answer, is_repeat=True)


# --- read


async def get(database: Database, run_id: int) -> Run:
    run = await database.read(queries.get_run, run_id)
    if run is None:
        raise NotFound(f"run not found: {run_id}")
    return run


async def list_runs(
    database: Database,
    *,
    state: str | None = None,
    name: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Run]:
    return await database.read(
        lambda tx: queries.list_runs(tx, state=state, name=name, before=before, limit=limit)
    )


async def tasks(
    database: Database,
    run_id: int,
    *,
    state: str | None = None,
    after: int | None = None,
    limit: int = 1000,
) -> list[Task]:
    return await database.read(
        lambda tx: queries.list_tasks(tx, run_id, state=state, after=after, limit=limit)
    )


async def edges(
    database: Database, run_id: int, *, limit: int | None = None
) -> list[tuple[str, str, str | None]]:
    return await database.read(lambda tx: queries.list_edges(tx, run_id, limit=limit))


async def events(database: Database, run_id: int, *, after: int = 0, limit: int = 1000) -> list[Event]:
    """Events numbered above `after`, in order; reading on from the last number misses nothing."""
    return await database.read(lambda tx: queries.list_events(tx, run_id, after=after, limit=limit))


async def logs(
    database: Database, run_id: int, *, task_name: str | None = None, limit: int = 1000, offset: int = 0
) -> list[LogLine]:
    return await database.read(
        lambda tx: queries.list_logs(tx, run_id, task_name=task_name, limit=limit, offset=offset)
    )


# --- control


async def hold(database: Database, run_id: int, *, actor: str = "local") -> Run:
    """Pause: after this returns no new attempt of the run starts until `resume`. Running ones go on."""
    return await database.run(_hold, run_id, actor=actor)


async def resume(database: Database, run_id: int, *, actor: str = "local") -> Run:
    return await database.run(_resume, run_id, actor=actor)


async def cancel(
    database: Database, run_id: int, *, reason: str = "context canceled", actor: str = "local"
) -> Run:
    """After this returns no further task of the run starts; running attempts are told to stop."""
    return await database.run(_cancel, run_id, reason, actor=actor)


async def retry(database: Database, run_id: int, *, actor: str = "local") -> Run:
    """A failed or cancelled run goes on from the tasks that did not succeed; results stay."""
    return await database.run(_retry, run_id, actor=actor)


async def delete(database: Database, run_id: int, *, actor: str = "local") -> None:
    """Remove a finished run with everything that belongs to it."""
    await database.run(_delete, run_id, actor=actor)


def _own(tx: Transaction, run_id: int) -> Any:
    row = store.own(tx, run_id)
    if row is None:
        raise NotFound(f"run not found: {run_id}")
    return row


def _hold(tx: Transaction, run_id: int) -> Run:
    state = _own(tx, run_id).state
    if state in FINAL_RUN_STATES:
        raise Conflict(f"run {run_id} is {state}; only a pending or running run can be paused")
    if state != RunState.PAUSED:
        store.hold(tx, run_id)
    return _current(tx, run_id)


def _resume(tx: Transaction, run_id: int) -> Run:
    state = _own(tx, run_id).state
    if state in FINAL_RUN_STATES:
        raise Conflict(f"run {run_id} is {state}; only a paused run can be resumed")
    if state == RunState.PAUSED:
        store.resume(tx, run_id)
    return _current(tx, run_id)


def _cancel(tx: Transaction, run_id: int, reason: str) -> Run:
    row = _own(tx, run_id)
    if row.state in (RunState.SUCCEEDED, RunState.FAILED):
        raise Conflict(f"run {run_id} is {row.state}; only an unfinished run can be cancelled")
    if row.state != RunState.CANCELLED and not row.is_cancelling:
        store.cancel(tx, run_id, reason)
    return _current(tx, run_id)


def _retry(tx: Transaction, run_id: int) -> Run:
    state = _own(tx, run_id).state
    if state not in (RunState.FAILED, RunState.CANCELLED):
        raise Conflict(f"run {run_id} is {state}; only a failed or cancelled run can be retried")
    store.rerun(tx, run_id)
    return _current(tx, run_id)


def _delete(tx: Transaction, run_id: int) -> None:
    state = _own(tx, run_id).state
    if state not in FINAL_RUN_STATES:
        raise Conflict(f"run {run_id} is {state}; cancel it before deleting it")
    removal.delete(tx, [run_id])


def _current(tx: Transaction, run_id: int) -> Run:
    run = queries.get_run(tx, run_id)
    assert run is not None
    return run


# --- retention


async def prune(database: Database, *, finished_seconds: float) -> int:
    """Remove runs that finished longer ago than that, a chunk per transaction. Returns how many."""
    removed = 0
    while chunk := await database.run(_prune_chunk, finished_seconds):
        removed += chunk
    await database.run(_forget_old, finished_seconds)
    return removed


def _prune_chunk(tx: Transaction, finished_seconds: float) -> int:
    candidates = removal.finished_before(tx, finished_seconds, _PRUNE_RUNS, _PRUNE_TASKS)
    run_ids = removal.own_finished(tx, candidates)
    if run_ids:
        removal.delete(tx, run_ids)
    return len(run_ids)


def _forget_old(tx: Transaction, finished_seconds: float) -> None:
    keys.forget_keys(tx, KEY_SECONDS)
    forget(tx, finished_seconds)
