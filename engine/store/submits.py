"""Graphs written whole: runs, tasks, edges, their first events; and tasks that running ones add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Plan, Reach, Rule, TaskSpec
from engine.model.records import Lease
from engine.model.retry import RetryPolicy
from engine.model.states import Move, RunState, TaskState
from engine.model.tally import Change
from engine.store import compensations, limits
from engine.store.bookkeeping import count, lock_tallies, record, write_tallies
from engine.store.database import LostRace, Transaction
from engine.store.dialects.base import Dialect
from engine.store.moves import make_available, wait_for
from engine.store.schema import edge, event, queue, run, task, task_state
from engine.store.statement import (
    Form,
    chunks,
    document,
    insert_rows,
    insertion,
    json_text,
    moment_of,
    moment_text,
    parted,
)


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
    rows = (
        (
            _task_row(task_id, written.run_id, parent_id, spec, reach),
            _state_row(task_id, written.run_id, spec, waiting),
        )
        for plan, written in graphs
        for task_id, spec, waiting, reach in zip(
            written.task_ids, plan.graph.tasks, plan.waiting_on, _reaches(plan, least), strict=True
        )
    )
    for chunk in chunks(rows):
        insert_rows(tx, task, [row for row, _ in chunk], _TASK_COLUMNS, stamped="created_at")
        form, binds = parted(tx.dialect, [state for _, state in chunk], _STATE_COLUMNS)
        tx.execute(_insert_states(tx.dialect, form), binds)
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
    kinds = Counter(f"submitted:{spec.kind}" for plan in plans for spec in plan.graph.tasks)
    count(tx, {**kinds, "open": kinds.total()})


_TASK_COLUMNS = (
    "id",
    "run_id",
    "parent_id",
    "name",
    "kind",
    "params",
    "timeout_ms",
    "retry",
    "client",
    "inputs",
    "reach",
)


def _task_row(task_id: int, run_id: int, parent_id: int | None, spec: TaskSpec, reach: Reach) -> list[Any]:
    return [
        task_id,
        run_id,
        parent_id,
        spec.name,
        spec.kind,
        json_text(spec.params),
        spec.timeout_ms,
        _retry_text(spec.retry),
        json_text(spec.client),
        json_text(spec.inputs),
        reach,
    ]


@lru_cache(maxsize=256)  # most tasks of a graph share one
def _retry_text(policy: RetryPolicy) -> str | None:
    return json_text(policy.to_json() or None)


_STATE_COLUMNS = (
    "task_id",
    "run_id",
    "state",
    "queue",
    "kind",
    "rank",
    "available_at",
    "delay_ms",
    "rule",
    "waiting_on",
    "limit_keys",
)


def _state_row(task_id: int, run_id: int, spec: TaskSpec, waiting_on: int) -> list[Any]:
    state = TaskState.BLOCKED if waiting_on else TaskState.AVAILABLE
    rule = None if spec.rule is Rule.ALL_SUCCESS else spec.rule
    return [
        task_id,
        run_id,
        state,
        spec.queue,
        spec.kind,
        -spec.priority,
        moment_text(spec.available_at),
        spec.delay_ms,
        rule,
        waiting_on,
        limits.text_of(spec) if spec.limits else None,
    ]


@insertion
def _insert_states(dialect: Dialect, form: Form) -> sa.Insert:
    """Tasks without upstreams are available from now on, or from their own later time."""
    rows, values = form.read(dialect, task_state)
    own = values["available_at"]
    start = sa.type_coerce(dialect.later(values["delay_ms"]), task_state.c.available_at.type)
    values["available_at"] = sa.case((own > start, own), (values["waiting_on"] == 0, start), else_=own)
    values["limit_keys"] = limits.keys_of(values["limit_keys"])
    values["changed_at"] = moment_of(dialect, task_state.c.changed_at)
    return sa.insert(task_state).from_select(list(values), sa.select(*values.values()).select_from(rows))


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
