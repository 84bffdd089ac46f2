"""Submit: a graph becomes a run, the whole of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import IdempotencyMismatch, UnknownKind
from engine.model.graph import Graph, Plan, plan
from engine.store import aliases, keys
from engine.store import submits as store
from engine.store.database import Database, Transaction

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
    store.count_submitted(tx, [item.plan for item in fresh.values()])
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
            plans, store.insert_graphs(tx, plans, [item.actor for item in submissions]), strict=True
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
