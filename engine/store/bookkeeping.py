"""What goes with every change of a task: an event, the tally of its run, the totals.

Lock order everywhere: runs (advisory) → task rows by id → run rows by id → counters by name.

Two forms of one thing: `model.tally` counts in Python, for databases in our own process; `Booked` is the same
as parts of one SQL statement, for servers. The tests against the model run on both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from engine.model.states import FINAL_RUN_STATES, FINAL_TASK_STATES, RunState, TaskState
from engine.model.tally import Change, Tally
from engine.store.booked import Booked, booking
from engine.store.database import ENDED, Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import counter, edge, event, run, task
from engine.store.statement import (
    chunks,
    column_types,
    document,
    insert_rows,
    insertion,
    json_text,
    moment_of,
    statement,
)


def record(tx: Transaction, changes: Sequence[Change]) -> None:
    """Number `changes` per run, write their event rows, and bring run rows and counters up to date.

    Run rows are locked here, last and in id order, so numbers follow the order of commits.
    """
    if not changes:
        return
    _count_awaited(tx, changes)
    if tx.dialect.writes_in_with:
        _record_at_once(tx, changes)
    else:
        _record_in_steps(tx, changes)


_ILL = frozenset({TaskState.FAILED, TaskState.CANCELLED})


def _count_awaited(tx: Transaction, changes: Sequence[Change]) -> None:
    """What becomes of a sub-task counts for the task that awaits it: not for the run besides."""
    rows = [
        [change.task_id, (change.target in _ILL) - (change.source in _ILL)]
        for change in changes
        if change.source is not change.target and (change.target in _ILL or change.source in _ILL)
    ]
    if not rows:
        return
    run_ids = sorted({change.run_id for change in changes})
    if len(run_ids) > 1 and tx.dialect.locks_rows:
        tx.execute(_lock_runs(tx.dialect), {"ids": tx.dialect.array(run_ids)})
    for chunk in chunks(rows):
        tx.execute(_shift_awaited(tx.dialect), {"shifts": document(chunk)})


@statement
def _shift_awaited(dialect: Dialect) -> sa.Update:
    rows = dialect.recordset("shifts", {"id": task.c.id.type, "by": sa.Integer()})
    is_awaited = sa.and_(edge.c.parent_id == task.c.id, edge.c.child_id == task.c.parent_id)
    by = (
        sa.select(task.c.run_id, sa.func.sum(rows.c.by).label("by"))
        .select_from(rows.join(task, task.c.id == rows.c.id).join(edge, is_awaited))
        .group_by(task.c.run_id)
        .subquery("by_run")
    )
    return sa.update(run).values(awaited=run.c.awaited + by.c.by).where(run.c.id == by.c.run_id)


def _record_in_steps(tx: Transaction, changes: Sequence[Change]) -> None:
    by_run: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        by_run[change.run_id].append(change)
    tallies = lock_tallies(tx, sorted(by_run))
    events = [
        (
            change.run_id,
            number,
            change.kind,
            change.task_id,
            change.attempt,
            tx.actor,
            json_text(change.detail),
        )
        for tally in tallies
        for number, change in tally.apply(by_run[tally.run_id])
    ]
    write_tallies(tx, tallies)
    wake_for_ends(tx, [tally for tally in tallies if tally.state in FINAL_RUN_STATES])
    insert_rows(
        tx, event, events, ("run_id", "number", "kind", "task_id", "attempt", "actor", "detail"), stamped="at"
    )
    count(tx, _counts(changes))


def lock_tallies(tx: Transaction, run_ids: Sequence[int]) -> list[Tally]:
    rows = tx.execute(_lock_runs(tx.dialect), {"ids": tx.dialect.array(run_ids)})
    return [
        Tally(
            run_id=row.id,
            state=RunState(row.state),
            is_cancelling=row.is_cancelling,
            event_count=row.event_count,
            total=row.total,
            running=row.running,
            succeeded=row.succeeded,
            failed=row.failed,
            skipped=row.skipped,
            cancelled=row.cancelled,
            awaited=row.awaited,
            has_started=row.started_at is not None,
        )
        for row in rows
    ]


_TALLIED = (
    "state",
    "is_cancelling",
    "event_count",
    "total",
    "running",
    "succeeded",
    "failed",
    "skipped",
    "cancelled",
)


def write_tallies(tx: Transaction, tallies: Sequence[Tally]) -> None:
    rows = [
        [
            tally.run_id,
            *(getattr(tally, name) for name in _TALLIED),
            tally.has_started,
            tally.state in FINAL_RUN_STATES,
        ]
        for tally in tallies
    ]
    tx.execute(_write_runs(tx.dialect), {"tallies": document(rows)})


@statement
def _lock_runs(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(run).where(dialect.is_any(run.c.id, "ids")).order_by(run.c.id).with_for_update()


@statement
def _write_runs(dialect: Dialect) -> sa.Update:
    columns = {name: run.c[name].type for name in ("id", *_TALLIED)}
    rows = dialect.recordset("tallies", {**columns, "has_started": sa.Boolean(), "is_final": sa.Boolean()})
    now = moment_of(dialect, run.c.started_at)
    return (
        sa.update(run)
        .values(
            **{name: rows.c[name] for name in _TALLIED},
            started_at=sa.case(
                (rows.c.has_started, sa.func.coalesce(run.c.started_at, now)), else_=run.c.started_at
            ),
            finished_at=sa.case((rows.c.is_final, sa.func.coalesce(run.c.finished_at, now)), else_=sa.null()),
        )
        .where(run.c.id == rows.c.id)
    )


def _counts(changes: Iterable[Change]) -> Counter[str]:
    """What the totals gain: one per target state, and the two gauges `open` and `running`."""
    counts: Counter[str] = Counter()
    for (source, target), times in Counter((change.source, change.target) for change in changes).items():
        if source is target or target is None:
            continue
        if target in FINAL_TASK_STATES or target is TaskState.RUNNING:
            counts[target if target is not TaskState.RUNNING else "started"] += times
        elif source is TaskState.RUNNING and target is not TaskState.BLOCKED:
            counts["retried"] += times
        counts["running"] += times * ((target is TaskState.RUNNING) - (source is TaskState.RUNNING))
        if source is not None:
            counts["open"] += times * ((source in FINAL_TASK_STATES) - (target in FINAL_TASK_STATES))
    return counts


def count(tx: Transaction, counts: Mapping[str, int]) -> None:
    """Add to the totals, in this process's shard, names in order."""
    rows = [[name, tx.shard, by] for name, by in sorted(counts.items()) if by]
    if rows:
        tx.execute(_count(tx.dialect), {"counts": document(rows)})


@insertion
def _count(dialect: Dialect) -> Any:
    rows = dialect.recordset("counts", {"name": sa.Text(), "shard": sa.Integer(), "value": sa.BigInteger()})
    insert = dialect.insert(counter).from_select(
        ["name", "shard", "value"],
        # SQLite cannot parse ON CONFLICT after a SELECT without a WHERE.
        sa.select(rows.c.name, rows.c.shard, rows.c.value).where(sa.true()).order_by(rows.c.name),
    )
    return insert.on_conflict_do_update(
        index_elements=["name", "shard"], set_={"value": counter.c.value + insert.excluded.value}
    )


# --- at once


_CHANGED = ("run_id", "kind", "task_id", "attempt", "detail")


@statement
def _book(dialect: Dialect) -> sa.Select[Any]:
    columns = {
        **column_types(event, _CHANGED),
        "source": sa.Text(),
        "target": sa.Text(),
        "place": sa.Integer(),
    }
    booked = Booked(dialect, dialect.recordset("changes", columns))
    return sa.select(booked.tallied.c.run_id).where(booked.tallied.c.ends).add_cte(*booked.parts)


def _record_at_once(tx: Transaction, changes: Sequence[Change]) -> None:
    rows = (
        [
            change.run_id,
            change.kind,
            change.task_id,
            change.attempt,
            json_text(change.detail),
            change.source,
            change.target,
            place,
        ]
        for place, change in enumerate(changes)
    )
    pieces = list(chunks(rows))
    if len(pieces) > 1:  # all runs before the first counter, in one order
        tx.execute(_lock_runs(tx.dialect), {"ids": tx.dialect.array(sorted({c.run_id for c in changes}))})
    for chunk in pieces:
        ended = tx.execute(_book(tx.dialect), {"changes": document(chunk), **booking(tx)})
        tx.ended.append(ended)


def wake_for_ends(tx: Transaction, ended: Collection[Any] | None) -> None:
    if ended:
        tx.wakes.add(ENDED)
