"""Graphs written whole: runs, tasks, edges, their first events; and tasks that running ones add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Plan, Reach, Rule, TaskSpec
from engine.model.records import Lease
from engine.model.retry import ONCE, RetryPolicy
from engine.model.states import Move, RunState, TaskState
from engine.model.tally import Change
from engine.store import compensations, limits
from engine.store.bookkeeping import count, lock_tallies, record, write_tallies
from engine.store.database import LostRace, Transaction
from engine.store.dialects.base import Dialect
from engine.store.moves import make_available, wait_for
from engine.store.schema import edge, event, queue, run, task, task_state
from engine.store.statement import (
    Columns,
    Form,
    chunks,
    document,
    insert_columns,
    insert_rows,
    insertion,
    json_text,
    moment_of,
    moment_text,
    parted,
    sent_at_once,
)

_AT_ONCE = 500  # tasks of one statement: the server writes some while we put the next together


@dataclass(frozen=True, slots=True)
class Submitted:
    run_id: int
    task_ids: list[int]  # in the order of the graph's tasks


def insert_graphs(tx: Transaction, plans: Sequence[Plan], actors: Sequence[str]) -> list[Submitted]:
    """Write many runs at once, each for its actor. The caller counts them, last (`count_submitted`)."""
    run_ids = tx.dialect.allocate(tx, "run", len(plans))
    task_ids = tx.dialect.allocate(tx, "task", sum(len(plan.waiting_on) for plan in plans))
    submitted = []
    taken = 0
    for run_id, plan in zip(run_ids, plans, strict=True):
        size = len(plan.waiting_on)
        submitted.append(Submitted(run_id, task_ids[taken : taken + size]))
        taken += size
    limits.remember(tx, plans)
    _insert_runs(tx, plans, actors, submitted)
    for plan, written in zip(plans, submitted, strict=True):
        _wake_for(tx, plan)
        assert len(written.task_ids) == len(plan.waiting_on)
    _insert_tasks(tx, list(zip(plans, submitted, strict=True)))
    compensations.insert(tx, ((p, s.run_id, s.task_ids) for p, s in zip(plans, submitted, strict=True)))
    return submitted


def _insert_runs(
    tx: Transaction, plans: Sequence[Plan], actors: Sequence[str], submitted: Sequence[Submitted]
) -> None:
    runs = [
        [
            s.run_id,
            RunState.PENDING,
            p.graph.name,
            json_text(p.graph.labels or None),
            actor,
            1,
            len(p.waiting_on),
        ]
        for p, actor, s in zip(plans, actors, submitted, strict=True)
    ]
    insert_rows(
        tx,
        run,
        runs,
        ("id", "state", "name", "labels", "actor", "event_count", "total"),
        stamped="created_at",
    )
    events = [
        [s.run_id, 1, "run.submitted", actor, json_text({"tasks": len(s.task_ids), "edges": len(p.edges)})]
        for p, actor, s in zip(plans, actors, submitted, strict=True)
    ]
    insert_rows(tx, event, events, ("run_id", "number", "kind", "actor", "detail"), stamped="at")


def _wake_for(tx: Transaction, plan: Plan) -> None:
    tx.wakes |= {
        spec.queue
        for spec, open_parents in zip(plan.graph.tasks, plan.waiting_on, strict=True)
        if not open_parents
    }


def _insert_tasks(
    tx: Transaction,
    graphs: Sequence[tuple[Plan, Submitted]],
    parent_id: int | None = None,
    least: Reach = Reach.ITSELF,
) -> None:
    for chunk in chunks(_rows_of(graphs, least), _AT_ONCE):
        ids, run_ids, specs, waiting_on, reaches = zip(*chunk, strict=True)
        at_once = len(chunk) == _AT_ONCE
        tasks = _task_columns(ids, run_ids, parent_id, specs, reaches)
        insert_columns(tx, task, tasks, stamped="created_at", at_once=at_once)
        form, binds = parted(tx.dialect, _state_columns(ids, run_ids, specs, waiting_on))
        insert = _insert_states_at_once if at_once else _insert_states
        tx.execute(insert(tx.dialect, form), binds)
    edges = (
        [written.task_ids[parent], written.task_ids[child], condition]
        for plan, written in graphs
        for parent, child, condition in plan.edges
    )
    for edge_chunk in chunks(edges):
        insert_rows(tx, edge, edge_chunk, ("parent_id", "child_id", "condition"))
    _remember_queues(tx, {spec.queue for plan, _ in graphs for spec in plan.graph.tasks})


def _reaches(plan: Plan, least: Reach) -> list[Reach]:
    """At `least` as far: tasks that are added to a graph may concern what is there already."""
    tasks = plan.graph.tasks
    if plan.is_saga:
        return [Reach.SAGA] * len(tasks)
    # With another rule than the default, upstreams may still count down its row while it runs.
    reaches = [Reach.ITSELF if spec.rule is Rule.ALL_SUCCESS else Reach.RELEASE for spec in tasks]
    for parent, child, condition in plan.edges:
        if condition is not None or tasks[child].rule is Rule.ONE_FAILED:
            reaches[parent] = Reach.SKIP
        elif reaches[parent] is Reach.ITSELF:
            reaches[parent] = Reach.RELEASE
    if least is Reach.ITSELF:
        return reaches
    order = list(Reach)
    return [max(reach, least, key=order.index) for reach in reaches]


def count_submitted(tx: Transaction, plans: Sequence[Plan]) -> None:
    """Bring the totals up to date. After everything else: others wait for a counter until we commit."""
    kinds = Counter(spec.kind for plan in plans for spec in plan.graph.tasks)
    count(tx, {**{f"submitted:{kind}": times for kind, times in kinds.items()}, "open": kinds.total()})


def _rows_of(
    graphs: Iterable[tuple[Plan, Submitted]], least: Reach
) -> Iterator[tuple[int, int, TaskSpec, int, Reach]]:
    for plan, written in graphs:
        yield from zip(
            written.task_ids,
            repeat(written.run_id),
            plan.graph.tasks,
            plan.waiting_on,
            _reaches(plan, least),
        )


def _task_columns(
    ids: Sequence[int],
    run_ids: Sequence[int],
    parent_id: int | None,
    specs: Sequence[TaskSpec],
    reaches: Sequence[Reach],
) -> Columns:
    return {
        "id": ids,
        "run_id": run_ids,
        "parent_id": [parent_id] * len(ids),
        "name": [spec.name for spec in specs],
        "kind": [spec.kind for spec in specs],
        "params": [json_text(spec.params) for spec in specs],
        "timeout_ms": [spec.timeout_ms for spec in specs],
        "retry": [None if spec.retry is ONCE else _retry_text(spec.retry) for spec in specs],
        "client": [json_text(spec.client) for spec in specs],
        "inputs": [json_text(spec.inputs) for spec in specs],
        "reach": reaches,
    }


@lru_cache(maxsize=256)  # most tasks of a graph share one
def _retry_text(policy: RetryPolicy) -> str | None:
    return json_text(policy.to_json() or None)


def _state_columns(
    ids: Sequence[int], run_ids: Sequence[int], specs: Sequence[TaskSpec], waiting_on: Sequence[int]
) -> Columns:
    return {
        "task_id": ids,
        "run_id": run_ids,
        "state": [TaskState.BLOCKED if waiting else TaskState.AVAILABLE for waiting in waiting_on],
        "queue": [spec.queue for spec in specs],
        "kind": [spec.kind for spec in specs],
        "rank": [-spec.priority for spec in specs],
        "available_at": [moment_text(spec.available_at) for spec in specs],
        "delay_ms": [spec.delay_ms for spec in specs],
        "rule": [None if spec.rule is Rule.ALL_SUCCESS else spec.rule for spec in specs],
        "waiting_on": waiting_on,
        "limit_keys": [limits.text_of(spec) if spec.limits else None for spec in specs],
    }


def _inserting_states(dialect: Dialect, form: Form) -> sa.Insert:
    """Tasks without upstreams are available from now on, or from their own later time."""
    rows, values = form.read(dialect, task_state)
    own = values["available_at"]
    start = sa.type_coerce(dialect.later(values["delay_ms"]), task_state.c.available_at.type)
    values["available_at"] = sa.case((own > start, own), (values["waiting_on"] == 0, start), else_=own)
    values["limit_keys"] = limits.keys_of(values["limit_keys"])
    values["changed_at"] = moment_of(dialect, task_state.c.changed_at)
    return sa.insert(task_state).from_select(list(values), sa.select(*values.values()).select_from(rows))


_insert_states = insertion(_inserting_states)
_insert_states_at_once = sent_at_once(_inserting_states)


def _remember_queues(tx: Transaction, queues: Iterable[str]) -> None:
    """Workers that serve every queue look the names up here."""
    tx.execute(_insert_queues(tx.dialect), {"queues": document([name] for name in sorted(set(queues)))})


@insertion
def _insert_queues(dialect: Dialect) -> Any:
    # Nearly always they are there. Asked for first, they cost every submit a round trip.
    names = dialect.recordset("queues", {"name": queue.c.name.type})
    insert = dialect.insert(queue).from_select(["name"], sa.select(names.c.name).where(sa.true()))
    return insert.on_conflict_do_nothing()


def queue_names(tx: Transaction) -> list[str]:
    return list(tx.execute(sa.select(queue.c.name).order_by(queue.c.name)).scalars())


def add_children(tx: Transaction, lease: Lease, plan: Plan, *, awaited: bool) -> Submitted:
    """Add tasks to a run while one of its tasks runs. The caller shares the run and holds the lease.

    If they are `awaited`, the running task is over only when they are. Raises `LostRace` if another task of
    the run adds one of the names at the same time.
    """
    run_id, parent_id = lease.run_id, lease.task_id
    least = lease.reach if lease.reach is Reach.SAGA else Reach.PARENT if awaited else Reach.ITSELF
    task_ids = tx.dialect.allocate(tx, "task", len(plan.waiting_on))
    written = Submitted(run_id, task_ids)
    limits.remember(tx, [plan])
    try:
        _insert_tasks(tx, [(plan, written)], parent_id, least)
        tx.pipeline.leave()
    except sa.exc.IntegrityError as error:
        if tx.dialect.is_duplicate(error):
            raise LostRace from error
        raise
    compensations.insert_more(tx, plan, task_ids)
    if awaited:
        edges = [[task_id, parent_id, None] for task_id in task_ids]
        insert_rows(tx, edge, edges, ("parent_id", "child_id", "condition"))
        wait_for(tx, parent_id, len(task_ids))
    [tally] = lock_tallies(tx, [run_id])
    tally.total += len(task_ids)
    write_tallies(tx, [tally])
    record(tx, [Change(run_id, "extended", parent_id, detail={"tasks": len(task_ids)})])
    if tally.state is RunState.PAUSED:
        roots = [
            task_id
            for task_id, open_parents in zip(task_ids, plan.waiting_on, strict=True)
            if not open_parents
        ]
        record(tx, list(make_available(tx, Move.HOLD, TaskState.AVAILABLE, roots)))
    else:
        _wake_for(tx, plan)
    count_submitted(tx, [plan])
    return written


def is_cancelling(tx: Transaction, run_id: int) -> bool:
    """Whether a run has been told to stop. Stays true as long as the caller shares the run."""
    query = sa.select(run.c.is_cancelling).where(run.c.id == run_id)
    return tx.execute(query).scalar_one() is True


def named(tx: Transaction, run_id: int, names: Sequence[str]) -> dict[str, tuple[int, int | None]]:
    """Of these names, those that the run's tasks have already: name → (task id, parent id)."""
    query = sa.select(task.c.name, task.c.id, task.c.parent_id).where(
        task.c.run_id == run_id, tx.dialect.is_any(task.c.name, "names")
    )
    rows = tx.execute(query, {"names": tx.dialect.array(names)})
    return {row.name: (row.id, row.parent_id) for row in rows}
