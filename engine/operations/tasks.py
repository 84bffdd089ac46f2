"""Tasks: claim, finish, spawn, cancel one; and what a running task reports."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Coroutine, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from engine.errors import Conflict, GraphError, LeaseLost, NotFound
from engine.model.graph import Graph, Reach, TaskSpec, plan
from engine.model.json import JSON, Unstorable, check_storable, is_storable, storable_text
from engine.model.outcomes import NO_REASON, Cancelled, Failed, Outcome, Succeeded, decide
from engine.model.records import Attempt, Holder, Lease, Task
from engine.model.states import FINAL_TASK_STATES
from engine.model.sub_tasks import SubTask
from engine.model.workflow_graph import bounded, workflow_key
from engine.store import aliases, claims, finishes, limits, queries, runs, submits, workers
from engine.store import upstream as store_upstream
from engine.store.bookkeeping import count
from engine.store.claims import ClaimRequest
from engine.store.database import Database, LostRace, Transaction
from engine.store.endings import Ending
from engine.store.statement import json_text

T = TypeVar("T")
MAX_RESULT_BYTES = 8 * 1024 * 1024  # 1 MiB of an HTTP answer or of each output stream, escaped as JSON


# --- the life of an attempt


async def claim(database: Database, request: ClaimRequest, *, actor: str) -> list[Lease]:
    """Lease available tasks of one queue; see `store.claims.claim`."""
    return await database.run(claims.claim, request, actor=actor)


async def claim_limited(
    database: Database, request: ClaimRequest, start: str, *, actor: str
) -> tuple[list[Lease], str]:
    """Lease tasks that have limits; see `store.limits.claim`."""
    return await database.run(limits.claim, request, start, actor=actor)


async def has_limits(database: Database) -> bool:
    """Whether there may be tasks that `claim` passes over."""
    return await database.read(limits.are_there)


async def adopt(database: Database, session_id: int, token: str) -> list[Lease]:
    """What a claim took whose answer never arrived: exactly the rows with its token."""
    return await database.read(claims.leases_of_session, session_id, token)


async def finish(database: Database, ended: Sequence[tuple[Lease, Outcome]], *, actor: str) -> list[Lease]:
    """Record how attempts ended and release what was waiting for them.

    Returns the leases that were lost: for those nothing was written. Safe to repeat after an unknown
    outcome: what was recorded before counts as recorded.
    """
    endings = [encode(lease, outcome) for lease, outcome in ended]
    groups = finishes.apart(database.dialect, endings)
    return await _whole(_finish_all(database, groups, actor), len(groups))


async def _whole(writes: Coroutine[Any, Any, T], count: int) -> T:
    """Several writes are not interrupted between them: the attempts have ended."""
    return await (asyncio.shield(writes) if count > 1 else writes)


async def _finish_all(database: Database, groups: Sequence[Sequence[Ending]], actor: str) -> list[Lease]:
    lost: list[Lease] = []
    for group in groups:
        refused = await database.run(finishes.finish, group, actor=actor)
        lost += await _lost(database, refused)
    return lost


async def finish_and_claim(
    database: Database,
    ended: Sequence[tuple[Lease, Outcome]],
    request: ClaimRequest,
    *,
    actor: str,
) -> tuple[list[Lease], list[Lease], int]:
    """`finish` and `claim` with one commit: returns the leases that were lost, those that were won, and how
    many tasks stand below those that ended, as far as that was counted.

    After an unknown outcome repeat `finish` and `adopt`, after `Busy` only `finish`.
    """
    endings = [encode(lease, outcome) for lease, outcome in ended]
    *others, last = finishes.apart(database.dialect, endings)
    return await _whole(_finish_all_and_claim(database, others, last, request, actor), 1 + len(others))


async def _finish_all_and_claim(
    database: Database,
    groups: Sequence[Sequence[Ending]],
    last: Sequence[Ending],
    request: ClaimRequest,
    actor: str,
) -> tuple[list[Lease], list[Lease], int]:
    lost = await _finish_all(database, groups, actor)
    refused, claimed, below = await database.run(finishes.finish_and_claim, last, request, actor=actor)
    return lost + await _lost(database, refused), claimed, below


async def _lost(database: Database, refused: Sequence[Ending]) -> list[Lease]:
    return await database.run(_late, refused) if refused else []


def _late(tx: Transaction, refused: Sequence[Ending]) -> list[Lease]:
    """Of endings that were refused, the leases that were lost: counts them."""
    # Ours from before, if an attempt row with our number says what we say; only a holder can write one.
    earlier = finishes.recorded_attempts(tx, [ending.fence for ending in refused])
    lost = [e.lease for e in refused if earlier.get(e.fence) != e.decision.word]
    count(tx, {"late": len(lost)})
    return lost


def encode(lease: Lease, outcome: Outcome) -> Ending:
    """Decide what follows, and turn the result into text that every database can store.

    A result that cannot be stored fails this attempt for good, and only this one.
    """
    if not isinstance(outcome, Succeeded):
        outcome = _legible(outcome)
    result = outcome.result if isinstance(outcome, (Succeeded, Failed)) else None
    text: str | None = None
    try:
        check_storable(result, max_values=MAX_RESULT_BYTES)
        if isinstance(outcome, Succeeded) and outcome.branch is not None:
            check_storable(outcome.branch)
        text = json_text(result)
    except (Unstorable, TypeError, ValueError, RecursionError) as error:
        outcome = _unstorable(outcome, "result_unstorable", f"result cannot be stored: {error}")
    if text is not None and (size := len(text if text.isascii() else text.encode())) > MAX_RESULT_BYTES:
        message = f"result has {size} bytes, the limit is {MAX_RESULT_BYTES}"
        outcome = _unstorable(outcome, "result_too_large", message)
        text = None
    decision = decide(lease, outcome)
    branch = outcome.branch if isinstance(outcome, Succeeded) else None
    usage = getattr(outcome, "usage", None)
    return Ending(lease, decision, text, branch, usage) if usage else Ending(lease, decision, text, branch)


def _legible(outcome: Outcome) -> Outcome:
    """With words that can be stored: why something failed is worth more than its exact characters."""
    match outcome:
        case Failed():
            details = outcome.details if is_storable(outcome.details) else None
            return replace(outcome, message=storable_text(outcome.message), details=details)
        case Cancelled():
            return replace(outcome, message=storable_text(outcome.message))
        case _:
            return outcome


def _unstorable(outcome: Outcome, code: str, message: str) -> Failed:
    usage = outcome.usage if isinstance(outcome, (Succeeded, Failed)) else None
    failed = Failed(message[:500], code=code, source="store", is_permanent=True)
    return (
        failed
        if usage is None
        else Failed(message[:500], code=code, source="store", is_permanent=True, usage=usage)
    )


# --- what a running task does to its run


async def spawn(
    database: Database, lease: Lease, tasks: Sequence[TaskSpec], *, actor: str, awaited: bool = False
) -> list[int]:
    """Add tasks to the run of a running task. Returns their ids in order.

    If they are `awaited`, the task is to end with `Awaiting` once it has done its part, and is over only
    when they are: what waits for it waits for them as well.

    Names that this same task added before are returned as they are, so a repeated attempt adds nothing
    twice. Raises `LeaseLost` if the attempt is no longer current, `Conflict` if the run is being cancelled,
    `GraphError` for bad graphs.
    """
    return await database.run(_spawn, lease, list(tasks), awaited, actor=actor)


def _spawn(tx: Transaction, lease: Lease, specs: list[TaskSpec], awaited: bool) -> list[int]:
    plan(Graph(tuple(specs)))
    if lease.reach is not Reach.SAGA and any(spec.compensation for spec in specs):
        raise GraphError("a compensation can be added to a run only if one of its own tasks has one")
    tx.dialect.share_runs(tx, [lease.run_id])
    if not workers.holds(tx, lease):
        raise LeaseLost(f"attempt {lease.attempt} of task {lease.name!r} is no longer current")
    existing = submits.named(tx, lease.run_id, [spec.name for spec in specs])
    ids = {name: task_id for name, (task_id, parent) in existing.items() if parent == lease.task_id}
    if others := existing.keys() - ids.keys():
        raise GraphError(f'duplicate task id: "{min(others)}"')
    if news := [spec for spec in specs if spec.name not in ids]:
        if submits.is_cancelling(tx, lease.run_id):
            raise Conflict(f"run {lease.run_id} is being cancelled; nothing can be added to it")
        _refuse_dependence(news, ids)
        # Checked as they were given: the limit of the workflow is none of theirs.
        checked = replace(plan(Graph(tuple(news))), graph=Graph(tuple(_as_theirs(tx, lease, news))))
        added = submits.add_children(tx, lease, checked, awaited=awaited).task_ids
        ids |= zip((spec.name for spec in news), added, strict=True)
    return [ids[spec.name] for spec in specs]


def _refuse_dependence(news: Iterable[TaskSpec], earlier: Container[str]) -> None:
    for spec in news:
        for dependency in spec.depends_on:
            if dependency.name in earlier:
                raise GraphError(
                    f'task "{spec.name}" depends on "{dependency.name}", which an earlier call added: add '
                    "tasks that depend on each other in one call, and the same ones in each attempt"
                )


def _as_theirs(tx: Transaction, lease: Lease, specs: list[TaskSpec]) -> list[TaskSpec]:
    """With what holds for all tasks of a workflow, if one of its tasks adds them: its number counts where
    they name its own limit."""
    workflow_id = lease.client.get("workflow_id") if isinstance(lease.client, dict) else None
    if workflow_id is None:
        return [bounded(spec, None) for spec in specs]
    limit = limits.held(tx, lease.task_id, workflow_key(workflow_id))
    shared = {} if limit is None else {limit.key: limit}
    return [
        replace(
            bounded(spec, tx.run_defaults.timeout_ms),
            client={"workflow_id": workflow_id} if spec.client is None else spec.client,
            limits=tuple(({each.key: each for each in spec.limits} | shared).values()),
        )
        for spec in specs
    ]


async def sub_tasks(database: Database, lease: Lease) -> list[SubTask]:
    """The tasks that a task has added and waits for, in the order of their addition."""
    return await database.read(store_upstream.added, lease.task_id)


async def upstream(database: Database, lease: Lease, names: Sequence[str] | None = None) -> dict[str, JSON]:
    """Results by task name: of the direct upstream tasks that succeeded, or of those of `names` that did."""
    if names is None:
        return await database.read(store_upstream.direct, lease.task_id)
    return await database.read(store_upstream.named, lease.run_id, list(names))


async def report(database: Database, lease: Lease, progress: JSON) -> None:
    """Replace the task's progress document. Raises `LeaseLost`, or `Unstorable` (a ValueError)."""
    check_storable(progress)
    if not await database.run(workers.write_progress, lease, progress):
        raise LeaseLost(f"attempt {lease.attempt} of task {lease.name!r} is no longer current")


async def append_logs(database: Database, lines: Sequence[tuple[Holder, int, datetime, str, str]]) -> None:
    """Append (holder, number, time, stream, text); lines of lost leases are dropped."""
    await database.run(workers.append_logs, lines)


# --- from outside


async def get(database: Database, task_id: int) -> Task:
    task = await database.read(queries.get_task, task_id)
    if task is None:
        raise NotFound(f"task not found: {task_id}")
    return task


async def get_by_name(database: Database, run_id: int, name: str) -> Task:
    task = await database.read(queries.get_task_by_name, run_id, name)
    if task is None:
        raise NotFound(f"task not found: {name} in run {run_id}")
    return task


async def attempts(database: Database, task_id: int) -> list[Attempt]:
    return await database.read(queries.list_attempts, task_id)


async def cancel(database: Database, task_id: int, *, reason: str = NO_REASON, actor: str = "local") -> Task:
    """Cancel one task: at once if it has not started, otherwise its worker is told to stop it."""
    return await database.run(_cancel, task_id, reason, actor=actor)


def _cancel(tx: Transaction, task_id: int, reason: str) -> Task:
    task = queries.get_task(tx, task_id)
    if task is None:
        raise NotFound(f"task not found: {task_id}")
    if runs.own(tx, task.run_id) is None:
        raise NotFound(f"task not found: {task_id}")
    if runs.cancel_task(tx, task.run_id, task_id, reason) is None:
        current = queries.get_task(tx, task_id)
        if current is None or current.state != "cancelled":
            raise Conflict(f"task {task.name!r} is {task.state}; only an unfinished task can be cancelled")
    current = queries.get_task(tx, task_id)
    assert current is not None
    return current


# --- names that client contracts gave


async def get_aliased(database: Database, contract: str, name: str) -> Task:
    task = await database.read(queries.get_aliased, contract, name)
    if task is None:
        raise NotFound(f"task not found: {name}")
    return task


async def list_aliased(
    database: Database,
    contract: str,
    *,
    states: Sequence[str] = (),
    kinds: Sequence[str] = (),
    failed_before: bool | None = None,
    run_id: int | None = None,
    after: int | None = None,
    offset: int = 0,
    limit: int | None = None,
) -> list[Task]:
    """Tasks a contract can see, by id; read on with `after` = id of the last one."""
    return await database.read(
        lambda tx: queries.list_aliased(
            tx,
            contract,
            states=states,
            kinds=kinds,
            failed_before=failed_before,
            run_id=run_id,
            after=after,
            offset=offset,
            limit=limit,
        )
    )


async def forget_alias(database: Database, contract: str, name: str, *, actor: str = "local") -> None:
    """Remove a task from the contract's view: cancelled if it had not started, else it goes on unseen."""
    await database.run(_forget_alias, contract, name, actor=actor)


def _forget_alias(tx: Transaction, contract: str, name: str) -> None:
    task = queries.get_aliased(tx, contract, name)
    if task is None:
        raise NotFound(f"task not found: {name}")
    runs.own(tx, task.run_id)
    dropped = aliases.drop(tx, contract, name)
    if dropped is None:
        raise NotFound(f"task not found: {name}")
    if dropped != task.id:
        raise LostRace  # a resubmission moved the name meanwhile: it means another task now
    current = queries.get_task(tx, task.id)
    if current is not None and current.state not in FINAL_TASK_STATES and current.state != "running":
        runs.cancel_task(tx, task.run_id, task.id, "deleted before it started")
