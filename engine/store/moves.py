"""The only writer of `task_state.state`, and the bookkeeping that goes with every change.

Lock order everywhere: runs (advisory) → task rows by id → run rows by id → counters by name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa

from engine.model.states import FINAL_RUN_STATES, FINAL_TASK_STATES, TRANSITIONS, Move, RunState, TaskState
from engine.model.tally import Change, Tally
from engine.store.database import ENDED, Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import Id, counter, event, is_still, run, task_state
from engine.store.statement import chunks, document, insert_rows, json_text, moment_of, statement

BY_ID: Mapping[str, Any] = {"id": Id}


def move(
    dialect: Dialect,
    move: Move,
    columns: Mapping[str, Any] = BY_ID,
    *where: Callable[[Any], sa.ColumnElement[bool]],
    source: TaskState | None = None,
    **values: Any,
) -> sa.Update:
    """The guarded UPDATE for `move`: only rows in one of its source states change.

    Rows come as a recordset named `moved` with the given `columns` (`id` among them); `where` and `values`
    may be functions of that recordset. Binds nothing else. Returns task_id, run_id, attempt and queue.
    """
    transition = TRANSITIONS[move]
    sources = (source,) if source is not None else tuple(s for s in TaskState if s in transition.sources)
    rows = dialect.recordset("moved", columns)
    set_values = {key: value(rows) if callable(value) else value for key, value in values.items()}
    return (
        sa.update(task_state)
        .values(
            state=sa.literal_column(repr(str(transition.target))),
            changed_at=moment_of(dialect, task_state.c.changed_at),
            **set_values,
        )
        .where(
            task_state.c.task_id == rows.c.id,
            is_still(task_state.c.state, *sources),
            *[condition(rows) for condition in where],
        )
        .returning(
            task_state.c.task_id,
            task_state.c.run_id,
            task_state.c.attempt,
            task_state.c.queue,
        )
    )


@statement
def _fresh(dialect: Dialect, kind: Move, source: TaskState) -> sa.Update:
    """Moves that make a task available take `available_at` afresh, so that it joins the end of its queue."""
    waits = kind in (Move.UNBLOCK, Move.UNBLOCK_HELD)
    start = dialect.later(task_state.c.delay_ms) if waits else dialect.now()
    available_at = sa.type_coerce(start, task_state.c.available_at.type)
    later = sa.case((task_state.c.available_at > available_at, task_state.c.available_at), else_=available_at)
    return move(dialect, kind, source=source, available_at=later)


@statement
def _explained(dialect: Dialect, kind: Move, source: TaskState) -> sa.Update:
    return move(
        dialect,
        kind,
        {"id": Id, "reason": sa.Text()},
        source=source,
        reason=lambda rows: rows.c.reason,
        is_cancelling=sa.false(),
    )


def make_available(tx: Transaction, kind: Move, source: TaskState, ids: Sequence[int]) -> Iterable[Change]:
    """UNBLOCK or RESUME (or their held twins). What changed is asked for when somebody looks."""
    moved = [
        tx.execute(_fresh(tx.dialect, kind, source), {"moved": document([task_id] for task_id in chunk)})
        for chunk in chunks(ids)
    ]
    return _changes(tx, kind, source, chain.from_iterable(moved))


def end_unstarted(tx: Transaction, kind: Move, source: TaskState, reasons: Mapping[int, str]) -> list[Change]:
    """SKIP or CANCEL tasks that are not running, each with its reason."""
    moved = [
        tx.execute(_explained(tx.dialect, kind, source), {"moved": document(chunk)})
        for chunk in chunks(sorted(reasons.items()))
    ]
    return [
        Change(
            row.run_id,
            kind,
            row.task_id,
            None,
            source,
            TRANSITIONS[kind].target,
            {"reason": reasons[row.task_id]},
        )
        for row in chain.from_iterable(moved)
    ]


def _changes(tx: Transaction, kind: Move, source: TaskState, rows: Iterable[Any]) -> Iterator[Change]:
    target = TRANSITIONS[kind].target
    for row in rows:
        if target is TaskState.AVAILABLE:
            tx.wakes.add(row.queue)
        yield Change(row.run_id, kind, row.task_id, None, source, target)


def record(tx: Transaction, changes: Sequence[Change]) -> list[Tally]:
    """Number `changes` per run, write their event rows, and bring run rows and counters up to date.

    Run rows are locked here, last and in id order, so numbers follow the order of commits.
    """
    if not changes:
        return []
    by_run: dict[int, list[Change]] = defaultdict(list)
    for change in changes:
        by_run[change.run_id].append(change)
    tallies = lock_tallies(tx, sorted(by_run))
    events: list[list[Any]] = []
    for tally in tallies:
        for number, change in tally.apply(by_run[tally.run_id]):
            events.append(
                [
                    change.run_id,
                    number,
                    change.kind,
                    change.task_id,
                    change.attempt,
                    tx.actor,
                    json_text(change.detail),
                ]
            )
    write_tallies(tx, tallies)
    if any(tally.state in FINAL_RUN_STATES for tally in tallies):
        tx.wakes.add(ENDED)
    insert_rows(
        tx, event, events, ("run_id", "number", "kind", "task_id", "attempt", "actor", "detail"), stamped="at"
    )
    count(tx, _counts(changes))
    return tallies


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
    for change in changes:
        source, target = change.source, change.target
        if source is target or target is None:
            continue
        if target in FINAL_TASK_STATES or target is TaskState.RUNNING:
            counts[target if target is not TaskState.RUNNING else "started"] += 1
        elif source is TaskState.RUNNING:
            counts["retried"] += 1
        counts["running"] += (target is TaskState.RUNNING) - (source is TaskState.RUNNING)
        if source is not None:
            counts["open"] += (source in FINAL_TASK_STATES) - (target in FINAL_TASK_STATES)
    return counts


def count(tx: Transaction, counts: Mapping[str, int]) -> None:
    """Add to the totals, in this process's shard, names in order."""
    rows = [[name, tx.shard, by] for name, by in sorted(counts.items()) if by]
    if rows:
        tx.execute(_count(tx.dialect), {"counts": document(rows)})


@statement
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
