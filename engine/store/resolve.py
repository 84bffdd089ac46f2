"""What the end of tasks does to the tasks below them: unblock or skip, as far down as it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import sqlalchemy as sa

from engine.model.graph import Rule
from engine.model.rules import settle
from engine.model.states import Move, TaskState
from engine.model.tally import Change
from engine.store.database import Transaction
from engine.store.dialects.base import Dialect
from engine.store.moves import end_unstarted, make_available
from engine.store.schema import Id, edge, is_still, state_is, task, task_state
from engine.store.statement import chunks, document, statement

# Task id → the final state that it counts as: what was skipped below a failure counts as failed, like that.
Settled = Mapping[int, TaskState]
_WORDS = {
    TaskState.FAILED: "failed",
    TaskState.CANCELLED: "cancelled",
    TaskState.SKIPPED: "skipped",
    TaskState.SUCCEEDED: "took another branch",
}


def release_dependents(tx: Transaction, settled: Settled, paused: set[int]) -> Iterable[Change]:
    """Count `settled` off the tasks that wait for them and move those that are decided by it. What became
    available is asked for when somebody looks.

    Wave by wave: what is skipped settles in turn. All that a skipped task decides by itself goes in one
    wave, so a chain of 100,000 takes two.
    """
    changes: list[Iterable[Change]] = []
    while settled:
        unblocked, held, skipped = _count_off(tx, settled, paused)
        changes.append(make_available(tx, Move.UNBLOCK, TaskState.BLOCKED, unblocked))
        changes.append(make_available(tx, Move.UNBLOCK_HELD, TaskState.BLOCKED, held))
        wave, settled = skip(tx, skipped)
        changes.append(wave)
    return chain.from_iterable(changes)


def _count_off(tx: Transaction, settled: Settled, paused: set[int]) -> tuple[list[int], list[int], Settled]:
    """Returns the ids of the tasks that are to be available now, held, and those that are to be skipped."""
    unblocked: set[int] = set()  # some are decided more than once: by upstreams of several chunks
    held: set[int] = set()
    skipped: dict[int, TaskState] = {}
    for chunk in chunks(settled.items()):
        for row in tx.execute(_count_down(tx.dialect), {"settled": document(chunk)}):
            due = verdict(row)
            if due is Move.UNBLOCK:
                (held if row.run_id in paused else unblocked).add(row.task_id)
            elif due is Move.SKIP:
                skipped[row.task_id] = skipped_as(row)
    return sorted(unblocked), sorted(held), skipped


def verdict(row: Any) -> Move | None:
    """What is due to a task by its state, rule and counts of upstreams."""
    if row.state != TaskState.BLOCKED:
        return None
    return settle(
        Rule(row.rule) if row.rule else Rule.ALL_SUCCESS,
        waiting_on=row.waiting_on,
        failed_on=row.failed_on,
        skipped_on=row.skipped_on,
    )


def skipped_as(row: Any) -> TaskState:
    """What a task counts as that is skipped with these counts of upstreams."""
    return TaskState.FAILED if row.failed_on else TaskState.SKIPPED


@statement
def _count_down(dialect: Dialect) -> sa.Update:
    parents = dialect.recordset("settled", {"id": Id, "state": sa.Text()})
    parent_state = task_state.alias("parent_state")
    missed = sa.or_(
        state_is(parents.c.state, TaskState.SKIPPED, TaskState.CANCELLED),
        sa.and_(
            parents.c.state == TaskState.SUCCEEDED,
            edge.c.condition.is_not(None),
            edge.c.condition != sa.func.coalesce(parent_state.c.branch, ""),
        ),
    )
    ended = (
        sa.select(
            edge.c.child_id,
            sa.func.count().label("edges"),
            sa.func.sum(sa.case((parents.c.state == TaskState.FAILED, 1), else_=0)).label("failed"),
            sa.func.sum(sa.case((missed, 1), else_=0)).label("missed"),
        )
        .join_from(parents, edge, edge.c.parent_id == parents.c.id)
        .join(parent_state, parent_state.c.task_id == parents.c.id)
        .group_by(edge.c.child_id)
        .subquery("ended")
    )
    return (
        sa.update(task_state)
        .values(
            waiting_on=task_state.c.waiting_on - ended.c.edges,
            failed_on=task_state.c.failed_on + ended.c.failed,
            skipped_on=task_state.c.skipped_on + ended.c.missed,
        )
        .where(task_state.c.task_id == ended.c.child_id)
        .returning(
            task_state.c.task_id,
            task_state.c.run_id,
            task_state.c.state,
            task_state.c.rule,
            task_state.c.waiting_on,
            task_state.c.failed_on,
            task_state.c.skipped_on,
        )
    )


def skip(tx: Transaction, skipped: Settled) -> tuple[list[Change], Settled]:
    """Skip blocked tasks and every task below them that is decided by that. Returns all changes."""
    changes: list[Change] = []
    settled: dict[int, TaskState] = {}
    for counted_as in (TaskState.FAILED, TaskState.SKIPPED):  # what stands below both stands below a failure
        ids = sorted(each for each in skipped.keys() - settled if skipped[each] is counted_as)
        wave = _skip(tx, ids, counted_as) if ids else []
        changes += wave
        settled |= {change.task_id: counted_as for change in wave if change.task_id is not None}
    return changes, settled


def _skip(tx: Transaction, task_ids: Sequence[int], counted_as: TaskState) -> list[Change]:
    reasons = _reasons(tx, task_ids)
    ids = {"ids": tx.dialect.array(task_ids)}
    region = set(tx.execute(_region(tx.dialect, counted_as), ids).scalars())
    if len(region) > len(reasons):
        for chunk in chunks(sorted(region)):
            for row in tx.execute(_skipped_through(tx.dialect), {"ids": tx.dialect.array(chunk)}):
                if row.id in region:
                    reasons.setdefault(row.id, f"dependency {row.via_name} skipped")
    return end_unstarted(tx, Move.SKIP, TaskState.BLOCKED, reasons)


def _reasons(tx: Transaction, task_ids: Sequence[int]) -> dict[int, str]:
    """Why each of these is skipped: the worst of its ended upstreams, by name."""
    worst: dict[int, tuple[int, str]] = {}
    order = list(_WORDS)
    for chunk in chunks(task_ids):
        for row in tx.execute(_missed_parents(tx.dialect), {"ids": tx.dialect.array(chunk)}):
            state = TaskState(row.state)
            found = (order.index(state), f"dependency {row.name} {_WORDS[state]}")
            worst[row.child_id] = min(worst.get(row.child_id, found), found)
    return {task_id: worst.get(task_id, (0, "no dependency failed"))[1] for task_id in task_ids}


@statement
def _missed_parents(dialect: Dialect) -> sa.Select[Any]:
    """Upstreams of the tasks `ids` that ended in another way than was waited for."""
    state = task_state.c.state
    another_branch = sa.and_(
        is_still(state, TaskState.SUCCEEDED),
        edge.c.condition.is_not(None),
        edge.c.condition != sa.func.coalesce(task_state.c.branch, ""),
    )
    missed = is_still(state, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED)
    return (
        sa.select(edge.c.child_id, task.c.name, state)
        .join_from(edge, task_state, task_state.c.task_id == edge.c.parent_id)
        .join(task, task.c.id == edge.c.parent_id)
        .where(dialect.is_any(edge.c.child_id, "ids"), sa.or_(missed, another_branch))
    )


@statement
def _region(dialect: Dialect, counted_as: TaskState) -> sa.Select[Any]:
    """The tasks `ids`, and those reachable from them that each is enough to skip: by the default rule, by
    `none_failed` below a failure, otherwise as the last upstream that a `one_failed` task waits for."""
    start = sa.select(task_state.c.task_id.label("id")).where(dialect.is_any(task_state.c.task_id, "ids"))
    region = start.cte("region", recursive=True)
    rule = task_state.c.rule
    if counted_as is TaskState.FAILED:
        is_enough = rule == sa.literal_column(repr(str(Rule.NONE_FAILED)))
    else:
        is_enough = sa.and_(
            rule == sa.literal_column(repr(str(Rule.ONE_FAILED))), task_state.c.waiting_on == 1
        )
    # Never made into a join, as a condition on a joined table would be: without statistics Postgres then went
    # through all tasks for each step down, and a graph of 10,000 ran into the time limit.
    is_decided = (
        sa.select(sa.and_(is_still(task_state.c.state, TaskState.BLOCKED), sa.or_(rule.is_(None), is_enough)))
        .where(task_state.c.task_id == edge.c.child_id)
        .scalar_subquery()
    )
    below = (
        sa.select(edge.c.child_id).join_from(region, edge, edge.c.parent_id == region.c.id).where(is_decided)
    )
    return sa.select(region.union(below).c.id)


@statement
def _skipped_through(dialect: Dialect) -> sa.Select[Any]:
    """For each task below the tasks `ids`, one of those by name: the first by id, so that reruns agree.

    A statement of its own: joined to the region, SQLite went through all edges of the database.
    """
    via = (
        sa.select(edge.c.child_id.label("id"), sa.func.min(edge.c.parent_id).label("via"))
        .where(dialect.is_any(edge.c.parent_id, "ids"))
        .group_by(edge.c.child_id)
        .subquery("via")
    )
    return sa.select(via.c.id, task.c.name.label("via_name")).join_from(via, task, task.c.id == via.c.via)
