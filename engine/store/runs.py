"""Graphs written whole, and runs held, resumed, cancelled and retried whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import sqlalchemy as sa

from engine.model.graph import Plan, Rule, TaskSpec
from engine.model.rules import settle
from engine.model.states import FINAL_RUN_STATES, FINAL_TASK_STATES, Move, RunState, TaskState
from engine.model.tally import Change
from engine.store.database import CONTROL, LostRace, Transaction
from engine.store.dialects.base import Dialect
from engine.store.moves import count, end_unstarted, lock_tallies, make_available, move, record, write_tallies
from engine.store.resolve import release_dependents, skip
from engine.store.schema import Id, edge, event, is_still, queue, run, state_is, task, task_state
from engine.store.statement import document, insert_rows, json_text, moment_of, moment_text, statement

T = TypeVar("T")
_CHUNK = 5_000  # rows in one statement


@dataclass(frozen=True, slots=True)
class Submitted:
    run_id: int
    task_ids: list[int]  # in the order of the graph's tasks


# --- submit


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
    _insert_runs(tx, plans, actors, submitted)
    for plan, written in zip(plans, submitted, strict=True):
        _wake_for(tx, plan)
        assert len(written.task_ids) == len(plan.waiting_on)
    _insert_tasks(tx, list(zip(plans, submitted, strict=True)))
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
    tx: Transaction, graphs: Sequence[tuple[Plan, Submitted]], parent_id: int | None = None
) -> None:
    rows = (
        (
            _task_row(task_id, written.run_id, parent_id, spec, number in deciding),
            _state_row(task_id, written.run_id, spec, waiting),
        )
        for plan, written in graphs
        for deciding in [_deciding(plan)]
        for number, (task_id, spec, waiting) in enumerate(
            zip(written.task_ids, plan.graph.tasks, plan.waiting_on, strict=True)
        )
    )
    for chunk in _chunks(rows):
        insert_rows(tx, task, [row for row, _ in chunk], _TASK_COLUMNS, stamped="created_at")
        tx.execute(_insert_states(tx.dialect), {"rows": document(state for _, state in chunk)})
    edges = (
        [written.task_ids[parent], written.task_ids[child], condition]
        for plan, written in graphs
        for parent, child, condition in plan.edges
    )
    for edge_chunk in _chunks(edges):
        insert_rows(tx, edge, edge_chunk, ("parent_id", "child_id", "condition"))
    _remember_queues(tx, {spec.queue for plan, _ in graphs for spec in plan.graph.tasks})


def _deciding(plan: Plan) -> set[int]:
    """Tasks whose success can skip others: by their branch, or where a failure is awaited."""
    tasks = plan.graph.tasks
    return {
        parent
        for parent, child, condition in plan.edges
        if condition is not None or tasks[child].rule is Rule.ONE_FAILED
    }


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    """Small enough that each statement soon follows the one before: the database ends whoever is idle in a
    transaction for seconds, and a busy machine took that long to gather the rows of 100,000 tasks."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


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
    "may_skip",
)


def _task_row(task_id: int, run_id: int, parent_id: int | None, spec: TaskSpec, may_skip: bool) -> list[Any]:
    return [
        task_id,
        run_id,
        parent_id,
        spec.name,
        spec.kind,
        json_text(spec.params),
        spec.timeout_ms,
        json_text(spec.retry.to_json() or None),
        json_text(spec.client),
        may_skip,
    ]


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
    ]


@statement
def _insert_states(dialect: Dialect) -> sa.Insert:
    """Tasks without upstreams are available from now on, or from their own later time."""
    rows = dialect.recordset("rows", {name: task_state.c[name].type for name in _STATE_COLUMNS})
    now = moment_of(dialect, task_state.c.changed_at)
    start = sa.type_coerce(dialect.later(rows.c.delay_ms), task_state.c.available_at.type)
    available_at = sa.case(
        (rows.c.available_at > start, rows.c.available_at),
        (rows.c.waiting_on == 0, start),
        else_=rows.c.available_at,
    )
    values = [available_at if name == "available_at" else rows.c[name] for name in _STATE_COLUMNS]
    return sa.insert(task_state).from_select([*_STATE_COLUMNS, "changed_at"], sa.select(*values, now))


def _remember_queues(tx: Transaction, queues: Iterable[str]) -> None:
    """Workers that serve every queue look the names up here."""
    known = set(tx.execute(_known_queues(tx.dialect), {"names": tx.dialect.array(queues)}).scalars())
    for name in sorted(set(queues) - known):
        tx.execute(tx.dialect.insert(queue).values(name=name).on_conflict_do_nothing())


@statement
def _known_queues(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(queue.c.name).where(dialect.is_any(queue.c.name, "names"))


def queue_names(tx: Transaction) -> list[str]:
    return list(tx.execute(sa.select(queue.c.name).order_by(queue.c.name)).scalars())


def add_children(tx: Transaction, run_id: int, parent_id: int, plan: Plan) -> Submitted:
    """Add tasks to a run while its task `parent_id` runs. The caller shares the run and holds the lease.

    Raises `LostRace` if another task of the run adds one of the names at the same time.
    """
    task_ids = tx.dialect.allocate(tx, "task", len(plan.waiting_on))
    written = Submitted(run_id, task_ids)
    try:
        _insert_tasks(tx, [(plan, written)], parent_id)
    except sa.exc.IntegrityError as error:
        if tx.dialect.is_duplicate(error):
            raise LostRace from error
        raise
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
        record(tx, make_available(tx, Move.HOLD, TaskState.AVAILABLE, roots))
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


# --- hold, resume, cancel, retry


def own(tx: Transaction, run_id: int) -> Any:
    """Be alone in a run and return its row, or None if there is no such run."""
    tx.dialect.own_runs(tx, [run_id])
    return tx.execute(sa.select(run).where(run.c.id == run_id)).one_or_none()


def hold(tx: Transaction, run_id: int) -> None:
    """Keep every available task of the run from being claimed."""
    ids = _ids_in(tx, run_id, TaskState.AVAILABLE)
    # Waits for claims under way; what they took is running and stays so.
    changes = make_available(tx, Move.HOLD, TaskState.AVAILABLE, ids)
    tx.wakes.clear()
    _set_run_state(tx, run_id, RunState.PAUSED, changes)


def resume(tx: Transaction, run_id: int) -> None:
    changes = make_available(tx, Move.RESUME, TaskState.HELD, _ids_in(tx, run_id, TaskState.HELD))
    _set_run_state(tx, run_id, None, changes)


def _set_run_state(tx: Transaction, run_id: int, state: RunState | None, changes: list[Change]) -> None:
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
        ids = _ids_in(tx, run_id, state)
        changes += end_unstarted(tx, Move.CANCEL, state, dict.fromkeys(ids, reason))
    running = ask_to_stop(tx, _ids_in(tx, run_id, TaskState.RUNNING))
    [tally] = lock_tallies(tx, [run_id])  # last: claims hold task rows while they wait for the run's
    tally.is_cancelling = True
    write_tallies(tx, [tally])
    record(tx, changes)
    return running


def ask_to_stop(tx: Transaction, task_ids: Sequence[int]) -> list[int]:
    """Mark running tasks for cancellation; their worker sees it at its next look. Returns those marked."""
    tx.wakes.add(CONTROL)
    return list(tx.execute(_ask_to_stop(tx.dialect), {"ids": tx.dialect.array(task_ids)}).scalars())


@statement
def _ask_to_stop(dialect: Dialect) -> sa.Update:
    return (
        sa.update(task_state)
        .values(is_cancelling=sa.true())
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
        ask_to_stop(tx, [task_id])
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

    Finished ones keep their results; what was skipped for a branch that was not taken is skipped again.
    """
    changes = [Change(run_id, "run.retried")]
    for state in (TaskState.FAILED, TaskState.SKIPPED, TaskState.CANCELLED):
        ids = _ids_in(tx, run_id, state)
        rows = tx.execute(_back_to_start(tx.dialect, state), {"moved": document([i] for i in ids)}).all()
        changes += [Change(run_id, Move.RERUN, row.task_id, None, state, TaskState.BLOCKED) for row in rows]
    reset = [change.task_id for change in changes if change.task_id is not None]
    changes += _settle_again(tx, reset)
    [tally] = lock_tallies(tx, [run_id])
    tally.is_cancelling = False
    # Open again, whatever is left to do: if nothing is, `record` closes it with a verdict of now.
    tally.state = RunState.RUNNING if tally.has_started else RunState.PENDING
    write_tallies(tx, [tally])
    record(tx, changes)
    return len(reset)


def _back_to_start(dialect: Dialect, state: TaskState) -> sa.Update:
    return move(
        dialect,
        Move.RERUN,
        source=state,
        failures=0,
        crashes=0,
        reason=None,
        is_cancelling=sa.false(),
        available_at=None,
    )


def _settle_again(tx: Transaction, task_ids: Sequence[int]) -> list[Change]:
    """Recount what reset tasks wait for, then unblock or skip those that need not wait."""
    ids = {"ids": tx.dialect.array(task_ids)}
    rows = tx.execute(_recount(tx.dialect), ids).all()
    dependents = set(tx.execute(_with_upstreams(tx.dialect), ids).scalars())
    verdicts: dict[Move, list[int]] = {Move.UNBLOCK: [], Move.SKIP: []}
    for row in rows:
        if row.state != TaskState.BLOCKED:
            continue
        verdict: Move | None = Move.UNBLOCK  # without upstreams, whatever the rule, as at submit
        if row.task_id in dependents:
            verdict = settle(
                Rule(row.rule) if row.rule else Rule.ALL_SUCCESS,
                waiting_on=row.waiting_on,
                failed_on=row.failed_on,
                skipped_on=row.skipped_on,
            )
        if verdict is not None:
            verdicts[verdict].append(row.task_id)
    changes = make_available(tx, Move.UNBLOCK, TaskState.BLOCKED, verdicts[Move.UNBLOCK])
    if verdicts[Move.SKIP]:
        skipped = skip(tx, verdicts[Move.SKIP])
        settled = {change.task_id: TaskState.SKIPPED for change in skipped if change.task_id is not None}
        changes += skipped + release_dependents(tx, settled, set())
    return changes


@statement
def _with_upstreams(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(edge.c.child_id).where(dialect.is_any(edge.c.child_id, "ids")).distinct()


@statement
def _recount(dialect: Dialect) -> sa.Update:
    """Count afresh for the tasks `ids`, and for those below them: some ran although an upstream failed,
    and each upstream that ends anew is counted off them again."""
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

    recounted = sa.union(
        sa.select(task_state.c.task_id).where(dialect.is_any(task_state.c.task_id, "ids")),
        sa.select(edge.c.child_id).where(dialect.is_any(edge.c.parent_id, "ids")),
    ).subquery("recounted")
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
        .where(child.c.task_id.in_(sa.select(recounted.c[0])))
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
