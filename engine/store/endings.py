"""Endings of attempts: what is to be written about them, whom to lock for that, and the fence."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from engine.model.graph import Reach
from engine.model.outcomes import Decision, Usage
from engine.model.records import Lease
from engine.model.states import Move, RunState, TaskState
from engine.store.booked import constant
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.moves import move
from engine.store.schema import edge, run, task_state
from engine.store.statement import statement

Fence = tuple[int, int]  # (task id, attempt number)


class Ending(NamedTuple):
    """How one attempt ended, encoded and checked, ready to be written."""

    lease: Lease
    decision: Decision
    result: str | None = None  # JSON text
    branch: str | None = None
    usage: Usage = Usage()

    @property
    def fence(self) -> Fence:
        return self.lease.task_id, self.lease.attempt

    @property
    def is_plain(self) -> bool:
        """A success that can skip nobody, and that is waited for by none that could be claimed already."""
        reach = self.lease.reach
        return self.decision.move is Move.SUCCEED and not (reach.can_skip or reach is Reach.PARENT)


def missing(endings: Sequence[Ending], written: Sequence[Fence]) -> list[Ending]:
    """Those of `endings` that are not among `written`."""
    if len(written) == len(endings):
        return []
    found = set(written)
    return [ending for ending in endings if ending.fence not in found]


# --- locks


def lock(tx: Transaction, endings: Sequence[Ending]) -> set[int]:
    """Lock runs and rows for a finish. Returns the tasks among `endings` whose end concerns others."""
    _lock_runs(tx, sorted({ending.lease.run_id for ending in endings}), endings)
    concerned = {ending.lease.task_id for ending in endings if ending.lease.reach is not Reach.ITSELF}
    awaiting = {ending.lease.task_id for ending in endings if ending.decision.move is Move.AWAIT}
    _lock_rows(tx, concerned, awaiting)
    return concerned


def _lock_runs(tx: Transaction, run_ids: Sequence[int], endings: Iterable[Ending]) -> None:
    """Successes of one run may finish side by side; whatever may skip tasks far below works alone.

    What is skipped lies below the rows that `_lock_rows` takes in order: side by side that dead-locked.
    """
    alone = {ending.lease.run_id for ending in endings if _works_alone(ending)}
    if alone:
        # Both kinds of lock in one order of ids, otherwise two batches could wait for each other.
        for run_id in run_ids:
            (tx.dialect.own_runs if run_id in alone else tx.dialect.share_runs)(tx, [run_id])
    else:
        tx.dialect.share_runs(tx, run_ids)


def _works_alone(ending: Ending) -> bool:
    reach = ending.lease.reach
    return reach.can_skip or (reach is not Reach.ITSELF and ending.decision.move is not Move.SUCCEED)


def _lock_rows(tx: Transaction, task_ids: Collection[int], awaiting: Collection[int]) -> None:
    """Parents, then children, both in id order as `successes` comes upon them.

    Those that wait for tasks of their own are the children of these. In a statement of its own: inside the
    UPDATE it would be lazy.
    """
    if (task_ids or awaiting) and tx.dialect.locks_rows:
        ids = {"ids": tx.dialect.array(sorted(task_ids)), "awaiting": tx.dialect.array(sorted(awaiting))}
        tx.execute(_lock_family(tx.dialect), ids)


@statement
def _lock_family(dialect: Dialect) -> sa.Select[Any]:
    one = task_state.alias("one")
    parents = sa.select(one.c.task_id.label("id"), sa.literal_column("0").label("generation"))
    children = sa.select(edge.c.child_id, sa.literal_column("1"))
    waiting = sa.select(one.c.task_id, sa.literal_column("1"))
    both = sa.union(
        parents.where(dialect.is_any(one.c.task_id, "ids")),
        children.where(dialect.is_any(edge.c.parent_id, "ids")),
        waiting.where(dialect.is_any(one.c.task_id, "awaiting")),
    ).subquery("family")
    return (
        sa.select(task_state.c.task_id)
        .join_from(both, task_state, task_state.c.task_id == both.c.id)
        .order_by(both.c.generation, task_state.c.task_id)
        .with_for_update(of=task_state)
    )


# --- shared parts of statements


def end_running(
    dialect: Dialect,
    kind: Move,
    rows: Any,
    returning: Sequence[sa.ColumnElement[Any]] = (),
    **values: Any,
) -> sa.Update:
    fence = task_state.c.token == rows.c.token
    return move(dialect, kind, rows, fence, source=TaskState.RUNNING, returning=returning, **values)


def paused_among(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(run.c.id).where(
        dialect.is_any(run.c.id, "runs"), run.c.state == constant(RunState.PAUSED)
    )
