"""Runs held, resumed, cancelled and retried whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from engine.model.states import FINAL_RUN_STATES, FINAL_TASK_STATES, Move, RunState, TaskState
from engine.model.tally import Change
from engine.store import sagas
from engine.store.bookkeeping import lock_tallies, record, write_tallies
from engine.store.database import CONTROL, Transaction
from engine.store.dialects.base import Dialect
from engine.store.moves import end_unstarted, make_available, move, moved
from engine.store.resolve import release_dependents, skip, skipped_as, verdict
from engine.store.schema import Id, edge, is_still, run, state_is, task, task_state
from engine.store.statement import chunks, document, moment_of, statement


def own(tx: Transaction, run_id: int) -> Any:
    """Be alone in a run and return its row, or None if there is no such run."""
    tx.dialect.own_runs(tx, [run_id])
    return tx.execute(sa.select(run).where(run.c.id == run_id)).one_or_none()


def hold(tx: Transaction, run_id: int) -> None:
    """Keep every available task of the run from being claimed."""
    # Waits for claims under way; what they took is running and stays so.
    changes = list(
        make_available(tx, Move.HOLD, TaskState.AVAILABLE, _ids_in(tx, run_id, TaskState.AVAILABLE))
    )
    tx.wakes.clear()
    _set_run_state(tx, run_id, RunState.PAUSED, changes)


def resume(tx: Transaction, run_id: int) -> None:
    held = _ids_in(tx, run_id, TaskState.HELD)
    _set_run_state(tx, run_id, None, make_available(tx, Move.RESUME, TaskState.HELD, held))


def _set_run_state(tx: Transaction, run_id: int, state: RunState | None, changes: Iterable[Change]) -> None:
    changes = list(changes)  # before the run's row is locked
    [tally] = lock_tallies(tx, [run_id])
    if tally.state not in FINAL_RUN_STATES:
        tally.state = state or (RunState.RUNNING if tally.has_started else RunState.PENDING)
        write_tallies(tx, [tally])
        word = "run.paused" if state is RunState.PAUSED else "run.resumed"
        changes = [Change(run_id, word), *changes]
    record(tx, changes)


def cancel(tx: Transaction, run_id: int, reason: str) -> list[int]:
    """Cancel what has not started, ask what runs to stop. Returns the ids of running tasks."""
    changes = [Change(run_id, "run.cancelling", detail={"reason": reason})]
    for state in (TaskState.BLOCKED, TaskState.AVAILABLE, TaskState.HELD):
        changes += end_unstarted(tx, Move.CANCEL, state, dict.fromkeys(_ids_in(tx, run_id, state), reason))
    running = ask_to_stop(tx, _ids_in(tx, run_id, TaskState.RUNNING), reason)
    [tally] = lock_tallies(tx, [run_id])  # last: claims hold task rows while they wait for the run's
    tally.is_cancelling = True
    write_tallies(tx, [tally])
    record(tx, changes)
    return running


def ask_to_stop(tx: Transaction, task_ids: Sequence[int], reason: str) -> list[int]:
    """Mark running tasks for cancellation; their worker sees it at its next look. Returns those marked."""
    tx.wakes.add(CONTROL)
    marked = {"ids": tx.dialect.array(task_ids), "reason": reason}
    return list(tx.execute(_ask_to_stop(tx.dialect), marked).scalars())


@statement
def _ask_to_stop(dialect: Dialect) -> sa.Update:
    return (
        sa.update(task_state)
        .values(is_cancelling=sa.true(), reason=sa.bindparam("reason", type_=sa.Text))
        .where(dialect.is_any(task_state.c.task_id, "ids"), is_still(task_state.c.state, TaskState.RUNNING))
        .returning(task_state.c.task_id)
    )


def cancel_task(tx: Transaction, run_id: int, task_id: int, reason: str) -> TaskState | None:
    """Cancel one task of a run that the caller owns. Returns the state it was in, None if final."""
    state = TaskState(
        tx.execute(
            sa.select(task_state.c.state).where(task_state.c.task_id == task_id).with_for_update()
        ).scalar_one()
    )
    if state is TaskState.RUNNING:
        ask_to_stop(tx, [task_id], reason)
    elif state not in FINAL_TASK_STATES:
        changes = end_unstarted(tx, Move.CANCEL, state, {task_id: reason})
        changes += release_dependents(tx, {task_id: TaskState.CANCELLED}, _paused_set(tx, run_id))
        record(tx, changes)
    else:
        return None
    return state


def _paused_set(tx: Transaction, run_id: int) -> set[int]:
    state = tx.execute(sa.select(run.c.state).where(run.c.id == run_id)).scalar_one()
    return {run_id} if state == RunState.PAUSED else set()


def rerun(tx: Transaction, run_id: int) -> int:
    """Put every task that did not succeed back to the start. Returns how many.

    What never started keeps its own later time; what did is available as soon as its upstreams allow.
    Finished ones keep their results; what was skipped for a branch that was not taken is skipped again.
    Compensations that somebody has skipped stay as they ended.
    """
    changes = [Change(run_id, "run.retried")]
    left = sagas.skipped(tx, run_id)
    for state in (TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED):
        for chunk in chunks(each for each in _ids_in(tx, run_id, state) if each not in left):
            rows = tx.execute(_back_to_start(tx.dialect, state), {"moved": document([i] for i in chunk)})
            changes += [
                Change(run_id, Move.RERUN, row.task_id, None, state, TaskState.BLOCKED) for row in rows
            ]
    reset = [change.task_id for change in changes if change.task_id is not None]
    changes += _settle_again(tx, reset)
    [tally] = lock_tallies(tx, [run_id])
    tally.is_cancelling = False
    # Open again, whatever is left to do: if nothing is, `record` closes it with a verdict of now.
    tally.state = RunState.RUNNING if tally.has_started else RunState.PENDING
    write_tallies(tx, [tally])
    record(tx, changes)
    return len(reset)


@statement
def _back_to_start(dialect: Dialect, state: TaskState) -> sa.Update:
    return move(
        dialect,
        Move.RERUN,
        moved(dialect),
        source=state,
        failures=0,
        crashes=0,
        reason=None,
        is_cancelling=sa.false(),
        available_at=sa.case((task_state.c.attempt == 0, task_state.c.available_at)),
    )


def _settle_again(tx: Transaction, task_ids: Sequence[int]) -> list[Change]:
    """Recount what reset tasks wait for, then unblock or skip those that need not wait."""
    recounted = set(task_ids)
    for chunk in chunks(task_ids):
        recounted.update(tx.execute(_done_below(tx.dialect), {"ids": tx.dialect.array(chunk)}).scalars())
    unblocked: list[int] = []
    skipped: dict[int, TaskState] = {}
    for chunk in chunks(sorted(recounted)):
        for row in tx.execute(_recount(tx.dialect), {"ids": tx.dialect.array(chunk)}):
            due = verdict(row)
            if due is Move.UNBLOCK:
                unblocked.append(row.task_id)
            elif due is Move.SKIP:
                skipped[row.task_id] = skipped_as(row)
    for chunk in chunks(sorted(skipped)):
        alone = tx.execute(_without_upstreams(tx.dialect), {"ids": tx.dialect.array(chunk)}).scalars()
        for task_id in alone:  # they run whatever their rule, as at submit
            del skipped[task_id]
            unblocked.append(task_id)
    changes: list[Change] = []
    for chunk in chunks(sorted(unblocked)):
        changes += _start_again(tx, chunk)
    wave, settled = skip(tx, skipped)
    return [*changes, *wave, *release_dependents(tx, settled, set())]


def _start_again(tx: Transaction, task_ids: Sequence[int]) -> list[Change]:
    rows = tx.execute(_available_again(tx.dialect), {"moved": document([i] for i in task_ids)}).all()
    tx.wakes |= {row.queue for row in rows}
    return [
        Change(row.run_id, Move.UNBLOCK, row.task_id, None, TaskState.BLOCKED, TaskState.AVAILABLE)
        for row in rows
    ]


@statement
def _available_again(dialect: Dialect) -> sa.Update:
    """At once if it ran before; otherwise when it would have been, its delay counted from now if it never
    got as far as that."""
    available_at = task_state.c.available_at
    now = moment_of(dialect, available_at)
    delayed = sa.type_coerce(dialect.later(task_state.c.delay_ms), available_at.type)
    start = sa.case((task_state.c.attempt > 0, now), else_=sa.func.coalesce(available_at, delayed))
    return move(
        dialect,
        Move.UNBLOCK,
        moved(dialect),
        source=TaskState.BLOCKED,
        available_at=sa.case((start > now, start), else_=now),
    )


@statement
def _without_upstreams(dialect: Dialect) -> sa.Select[Any]:
    has_upstreams = sa.exists().where(edge.c.child_id == task_state.c.task_id)
    return sa.select(task_state.c.task_id).where(dialect.is_any(task_state.c.task_id, "ids"), ~has_upstreams)


@statement
def _done_below(dialect: Dialect) -> sa.Select[Any]:
    """Tasks below `ids` that ran although an upstream failed: it ends anew and is counted off them again."""
    return (
        sa.select(edge.c.child_id)
        .join_from(edge, task_state, task_state.c.task_id == edge.c.child_id)
        .where(dialect.is_any(edge.c.parent_id, "ids"), is_still(task_state.c.state, TaskState.SUCCEEDED))
        .distinct()
    )


@statement
def _recount(dialect: Dialect) -> sa.Update:
    """Count afresh what the tasks `ids` wait for."""
    parent = task_state.alias("parent")
    is_open = sa.not_(state_is(parent.c.state, *FINAL_TASK_STATES))
    missed = sa.or_(
        state_is(parent.c.state, TaskState.SKIPPED, TaskState.CANCELLED),
        sa.and_(
            state_is(parent.c.state, TaskState.SUCCEEDED),
            edge.c.condition.is_not(None),
            edge.c.condition != sa.func.coalesce(parent.c.branch, ""),
        ),
    )

    def total(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0)

    child = task_state.alias("child")
    counts = (
        sa.select(
            child.c.task_id,
            total(is_open).label("waiting_on"),
            total(state_is(parent.c.state, TaskState.FAILED)).label("failed_on"),
            total(missed).label("skipped_on"),
        )
        .select_from(child)
        .outerjoin(edge, edge.c.child_id == child.c.task_id)
        .outerjoin(parent, parent.c.task_id == edge.c.parent_id)
        .where(dialect.is_any(child.c.task_id, "ids"))
        .group_by(child.c.task_id)
        .subquery("counts")
    )
    return (
        sa.update(task_state)
        .values(
            waiting_on=counts.c.waiting_on,
            failed_on=counts.c.failed_on,
            skipped_on=counts.c.skipped_on,
        )
        .where(task_state.c.task_id == counts.c.task_id)
        .returning(
            task_state.c.task_id,
            task_state.c.state,
            task_state.c.rule,
            task_state.c.waiting_on,
            task_state.c.failed_on,
            task_state.c.skipped_on,
        )
    )


def _ids_in(tx: Transaction, run_id: int, state: TaskState) -> list[int]:
    """Ids of a run's tasks in one state, locked in id order where rows can be locked."""
    return list(tx.execute(_IDS_IN[state], {"run_id": run_id}).scalars())


def _ids_in_state(state: TaskState) -> sa.Select[Any]:
    # Through `task`, which has the index by run: the hot row carries no index for this.
    return (
        sa.select(task_state.c.task_id)
        .join_from(task, task_state, task_state.c.task_id == task.c.id)
        .where(task.c.run_id == sa.bindparam("run_id", type_=Id), is_still(task_state.c.state, state))
        .order_by(task_state.c.task_id)
        .with_for_update(of=task_state)
    )


_IDS_IN = {state: _ids_in_state(state) for state in TaskState}
