"""The bookkeeping of `bookkeeping`, as parts of one SQL statement.

No part is joined to another: their sizes are unknown to the planner, and as nested loops a batch of 500 tasks
in as many runs took 250,000 steps. They are put below each other and summed instead.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from engine.model.states import FINAL_RUN_STATES, FINAL_TASK_STATES, TRANSITIONS, Move, RunState, TaskState
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import counter, event, run
from engine.store.statement import moment_of


class Booked:
    """The bookkeeping for `changes`, as CTEs. `changes` has run_id, place, kind, task_id, attempt, source,
    target and detail; binds are `actor` and `shard`."""

    def __init__(self, dialect: Dialect, changes: sa.CTE) -> None:
        moves = changes.c.source.is_distinct_from(changes.c.target)
        counted = _counted(changes, moves)
        locked = (
            sa.select(run)
            .where(dialect.candidates(run.c.id, sa.select(counted.c.run_id)))
            .order_by(run.c.id)
            .with_for_update(of=run)
            .cte("locked")
        )
        self.tallied = _tallied(dialect, locked, counted)
        events = _events(dialect, changes, self.tallied)
        totals = _totals(dialect, changes, moves, self.tallied)
        self.parts = (events, totals)


def changed(
    place: sa.ColumnElement[int],
    rows: Any,
    kind: Move,
    source: TaskState,
    number: sa.ColumnElement[int] | None = None,
) -> sa.Select[Any]:
    """Changes of `rows`, all by one move; `place` orders them among others of their run."""
    return sa.select(
        rows.c.run_id,
        place.label("place"),
        constant(kind).label("kind"),
        rows.c.task_id,
        (sa.cast(sa.null(), sa.Integer) if number is None else number).label("attempt"),
        constant(source).label("source"),
        constant(TRANSITIONS[kind].target).label("target"),
        sa.cast(sa.null(), event.c.detail.type).label("detail"),
    )


_SHOWN = (TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED)


def constant(word: str) -> sa.ColumnElement[str]:
    """A word of ours in the SQL text."""
    return sa.literal_column(repr(str(word)), sa.Text)


def is_one_of(column: sa.ColumnElement[Any], *words: str) -> sa.ColumnElement[bool]:
    return sa.or_(*(column == constant(word) for word in words))


def _number(flag: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.cast(flag, sa.Integer)


def _how_many(flag: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.cast(sa.func.count().filter(flag), sa.Integer)


def _counted(changes: sa.CTE, moves: sa.ColumnElement[bool]) -> sa.CTE:
    """Per run: how many events, and by how much each count of its tally changes."""
    shifts = [
        (
            _how_many(sa.and_(moves, is_one_of(changes.c.target, state)))
            - _how_many(sa.and_(moves, is_one_of(changes.c.source, state)))
        ).label(state)
        for state in _SHOWN
    ]
    starts = sa.func.coalesce(sa.func.bool_or(is_one_of(changes.c.target, TaskState.RUNNING)), sa.false())
    events = sa.cast(sa.func.count(), sa.Integer).label("events")
    return (
        sa.select(changes.c.run_id, events, starts.label("starts"), *shifts)
        .group_by(changes.c.run_id)
        .cte("counted")
    )


def _tallied(dialect: Dialect, locked: sa.CTE, counted: sa.CTE) -> sa.CTE:
    """`Tally.apply` for each run: its row as it is from now on, and whether it `starts` or `ends`."""
    due = _due(locked, counted)
    now = moment_of(dialect, run.c.started_at)
    verdict = sa.case(
        (due.c.is_cancelling, constant(RunState.CANCELLED)),
        (due.c.failed + due.c.cancelled == due.c.awaited, constant(RunState.SUCCEEDED)),
        (due.c.failed > 0, constant(RunState.FAILED)),
        else_=constant(RunState.CANCELLED),
    )
    reopens = sa.and_(due.c.was_final, due.c.is_open)
    state = sa.case(
        (due.c.ends, verdict),
        (sa.and_(reopens, due.c.has_started), constant(RunState.RUNNING)),
        (reopens, constant(RunState.PENDING)),
        (due.c.starts, constant(RunState.RUNNING)),
        else_=due.c.state,
    )
    row = {
        **{str(word): due.c[word] for word in _SHOWN},
        "state": state,
        "event_count": due.c.before + due.c.events + _number(due.c.ends),
        "started_at": sa.case((due.c.has_started, sa.func.coalesce(due.c.started_at, now))),
        "finished_at": sa.case((sa.not_(due.c.is_open), sa.func.coalesce(due.c.finished_at, now))),
    }
    told = (due.c.before, run.c.event_count, due.c.starts, due.c.ends, run.c.state)
    update = sa.update(run).values(row).where(run.c.id == due.c.run_id)
    return update.returning(run.c.id.label("run_id"), *told).cte("tallied")


def _due(locked: sa.CTE, counted: sa.CTE) -> sa.CTE:
    """Per run: its row with the new counts, and what they mean. `before` is the number before its events."""
    kept = ("state", "is_cancelling", "started_at", "finished_at")
    kept_sums = ("total", "event_count", "awaited")
    sums = (*kept_sums, *_SHOWN)
    of_row = sa.select(
        locked.c.id.label("run_id"),
        *(locked.c[name] for name in (*sums, *kept)),
        sa.literal_column("0", sa.Integer).label("events"),
        sa.false().label("starts"),
    )
    of_changes = sa.select(
        counted.c.run_id,
        *(sa.literal_column("0", sa.Integer).label(name) for name in kept_sums),
        *(counted.c[name] for name in _SHOWN),
        *(sa.cast(sa.null(), locked.c[name].type).label(name) for name in kept),
        counted.c.events,
        counted.c.starts,
    )
    both = sa.union_all(of_row, of_changes).subquery("both")
    added = {name: sa.cast(sa.func.sum(both.c[name]), sa.Integer) for name in (*sums, "events")}
    final = (added[state] for state in _SHOWN[2:])
    is_open = added["total"] != sum(final, added[TaskState.SUCCEEDED])
    state = sa.func.max(both.c.state)
    was_final = is_one_of(state, *sorted(FINAL_RUN_STATES))
    runs = sa.func.bool_or(both.c.starts)
    starts = sa.and_(runs, is_one_of(state, RunState.PENDING))
    started_at = sa.func.max(both.c.started_at)
    return (
        sa.select(
            both.c.run_id,
            state.label("state"),
            sa.func.bool_or(both.c.is_cancelling).label("is_cancelling"),
            started_at.label("started_at"),
            sa.func.max(both.c.finished_at).label("finished_at"),
            *(added[word].label(word) for word in (*_SHOWN, "awaited", "events")),
            (added["event_count"] + _number(starts)).label("before"),
            starts.label("starts"),
            sa.or_(runs, started_at.is_not(None)).label("has_started"),
            is_open.label("is_open"),
            was_final.label("was_final"),
            sa.not_(sa.or_(is_open, was_final)).label("ends"),
        )
        .group_by(both.c.run_id)
        .cte("due")
    )


def _events(dialect: Dialect, changes: sa.CTE, tallied: sa.CTE) -> sa.CTE:
    columns = ("run_id", "number", "kind", "task_id", "attempt", "detail", "at", "actor")
    befores = sa.select(sa.func.jsonb_object_agg(tallied.c.run_id, tallied.c.before)).scalar_subquery()
    before = sa.cast(befores.op("->>")(sa.cast(changes.c.run_id, sa.Text)), sa.Integer)
    place = sa.func.row_number().over(partition_by=changes.c.run_id, order_by=changes.c.place)
    stamp = (moment_of(dialect, event.c.at), sa.bindparam("actor", type_=sa.Text))
    of_tasks = sa.select(
        changes.c.run_id,
        before + place,
        changes.c.kind,
        changes.c.task_id,
        changes.c.attempt,
        changes.c.detail,
        *stamp,
    )
    nothing = (sa.null(), sa.null(), sa.null())
    started = sa.select(tallied.c.run_id, tallied.c.before, constant("run.started"), *nothing, *stamp).where(
        tallied.c.starts
    )
    ended = sa.select(
        tallied.c.run_id, tallied.c.event_count, constant("run.").concat(tallied.c.state), *nothing, *stamp
    ).where(tallied.c.ends)
    return sa.insert(event).from_select(columns, sa.union_all(of_tasks, started, ended)).cte("events")


def _totals(dialect: Dialect, changes: sa.CTE, moves: sa.ColumnElement[bool], tallied: sa.CTE) -> sa.CTE:
    """As `_counts`. Reads `tallied`, so that run rows are locked before counters."""
    finals = sorted(FINAL_TASK_STATES)
    to_running = is_one_of(changes.c.target, TaskState.RUNNING)
    from_running = is_one_of(changes.c.source, TaskState.RUNNING)
    ends, reopens = is_one_of(changes.c.target, *finals), is_one_of(changes.c.source, *finals)
    waits = is_one_of(changes.c.target, TaskState.BLOCKED)
    gains = {
        **{str(state): _how_many(is_one_of(changes.c.target, state)) for state in finals},
        "started": _how_many(to_running),
        "retried": _how_many(sa.and_(from_running, sa.not_(sa.or_(ends, to_running, waits)))),
        "running": _how_many(to_running) - _how_many(from_running),
        "open": _how_many(reopens) - _how_many(sa.and_(ends, changes.c.source.is_not(None))),
    }
    sums = (
        sa.select(*(gain.label(name) for name, gain in gains.items()))
        .where(moves, changes.c.target.is_not(None))
        .subquery("sums")
    )
    rows = (
        sa.values(sa.column("name", sa.Text), sa.column("value", sa.BigInteger), name="gains")
        .data([(constant(name), sums.c[name]) for name in sorted(gains)])
        .lateral()
    )
    insert = dialect.insert(counter).from_select(
        ["name", "shard", "value"],
        sa.select(rows.c.name, sa.bindparam("shard", type_=sa.Integer), rows.c.value)
        .select_from(sums.join(rows, sa.true()))
        .where(rows.c.value != 0, sa.exists(sa.select(tallied.c.run_id)))
        .order_by(rows.c.name),
    )
    totals: sa.CTE = insert.on_conflict_do_update(
        index_elements=["name", "shard"], set_={"value": counter.c.value + insert.excluded.value}
    ).cte("totals")
    return totals


def booking(tx: Transaction) -> dict[str, Any]:
    """What `Booked` binds."""
    return {"actor": tx.actor, "shard": tx.shard}
