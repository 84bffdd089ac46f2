"""Tasks whose number at work is limited by keys. A slot is the running row itself, so a crash leaks none.

They are claimed apart from the others, in a transaction that holds the rows of the limits it decides about:
what is counted there stays as it is until the claim has committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from engine.model.graph import EVERY_TASK, MAX_AT_MOST, Limit, Plan, TaskSpec
from engine.model.records import Lease, LimitUse
from engine.model.states import Move, TaskState
from engine.model.tally import Change
from engine.store.bookkeeping import record
from engine.store.claims import ClaimRequest, take_chosen
from engine.store.database import Later, Transaction
from engine.store.dialects.base import Dialect
from engine.store.schema import concurrency_limit, is_limited, state_is, task_state
from engine.store.statement import document, moment_of, statement

_BETWEEN = "\n"  # no key has a line feed
_MAX_GROUPS = 200  # looked at in one claim


def text_of(spec: TaskSpec) -> str | None:
    """What `task_state.limit_keys` says of a task."""
    return _BETWEEN.join(sorted(limit.key for limit in spec.limits)) or None


def remember(tx: Transaction, plans: Iterable[Plan]) -> None:
    """Note how much the limits of new tasks allow; the newest word counts, but for those of operators."""
    wanted = {
        limit.key: limit.at_most for plan in plans for spec in plan.graph.tasks for limit in spec.limits
    }
    if not wanted:
        return
    # Read first: an upsert would wait for whoever claims by one of these limits, though nothing changes.
    keys = {"keys": tx.dialect.array(sorted(wanted))}
    rows = tx.execute(_read(tx.dialect), keys).all()
    known = {row.key: row.at_most for row in rows if not row.is_fixed}
    fixed = {row.key for row in rows if row.is_fixed}
    news = [
        [key, at_most, False]
        for key, at_most in sorted(wanted.items())
        if key not in fixed and known.get(key) != at_most
    ]
    if news:
        tx.execute(_write(tx.dialect, by_operator=False), {"limits": document(news)})


def held(tx: Transaction, task_id: int, key: str) -> Limit | None:
    """The limit `key`, if this task is under it."""
    keys = tx.execute(sa.select(task_state.c.limit_keys).where(task_state.c.task_id == task_id)).scalar()
    if keys is None or key not in keys.split(_BETWEEN):
        return None
    found = tx.execute(_read(tx.dialect), {"keys": tx.dialect.array([key])}).one_or_none()
    return None if found is None else Limit(key, found.at_most)


@statement
def _read(dialect: Dialect) -> sa.Select[Any]:
    return sa.select(concurrency_limit).where(dialect.is_any(concurrency_limit.c.key, "keys"))


@statement
def _lock(dialect: Dialect) -> sa.Select[Any]:
    rows = sa.select(concurrency_limit).where(dialect.is_any(concurrency_limit.c.key, "keys"))
    return rows.order_by(concurrency_limit.c.key).with_for_update()


@statement
def _write(dialect: Dialect, by_operator: bool) -> Any:
    names = ["key", "at_most", "is_fixed"]
    rows = dialect.recordset("limits", {"key": sa.Text(), "at_most": sa.Integer(), "is_fixed": sa.Boolean()})
    insert = dialect.insert(concurrency_limit).from_select(
        names, sa.select(*(rows.c[name] for name in names)).where(sa.true()).order_by(rows.c.key)
    )
    return insert.on_conflict_do_update(
        index_elements=["key"],
        set_={name: insert.excluded[name] for name in names[1:]},
        where=None if by_operator else sa.not_(concurrency_limit.c.is_fixed),
    )


def set_(tx: Transaction, key: str, at_most: int, *, is_fixed: bool) -> None:
    """By an operator: if it `is_fixed`, what tasks bring along does not count."""
    limits = document([[key, at_most, is_fixed]])
    tx.execute(_write(tx.dialect, by_operator=True), {"limits": limits})


def list_(tx: Transaction, limit: int, offset: int) -> list[LimitUse]:
    """By key."""
    query = sa.select(concurrency_limit).order_by(concurrency_limit.c.key).limit(limit).offset(offset)
    running = _by_key(tx)
    return [LimitUse(row.key, row.at_most, running[row.key]) for row in tx.execute(query)]


def get(tx: Transaction, key: str) -> LimitUse | None:
    row = tx.execute(sa.select(concurrency_limit).where(concurrency_limit.c.key == key)).first()
    return None if row is None else LimitUse(row.key, row.at_most, _by_key(tx)[key])


def keys_of(own: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """`limit_keys` of new tasks, with the limit that holds for all of them if there is one."""
    holds = sa.exists().where(
        concurrency_limit.c.key == sa.literal_column(f"'{EVERY_TASK}'"),
        concurrency_limit.c.at_most < sa.literal_column(str(MAX_AT_MOST)),
    )
    others = sa.func.coalesce(sa.literal_column(f"'{_BETWEEN}'", sa.Text).concat(own), "")
    return sa.case((holds, sa.literal_column(f"'{EVERY_TASK}'", sa.Text).concat(others)), else_=own)


def are_there(tx: Transaction) -> bool:
    """Whether any task was ever submitted with a limit."""
    return tx.execute(sa.select(concurrency_limit.c.key).limit(1)).first() is not None


def claim(tx: Transaction, request: ClaimRequest, start: str = "") -> Later[tuple[list[Lease], str]]:
    """Lease up to `limit` limited tasks of one queue, as many as their keys allow.

    Looks at the groups of tasks with the same keys behind `start`, and says where to go on.
    """
    groups = _groups_behind(tx, request, start)
    go_on = groups[-1] if len(groups) >= _MAX_GROUPS else ""
    free = _free(tx, groups)
    rooms = {
        group: room
        for group in groups
        if (room := min(request.limit, *(free[key] for key in group.split(_BETWEEN)))) > 0
    }
    if not rooms:
        return Later(lambda: ([], go_on))
    chosen = _choose(_candidates(tx, request, rooms), free, request.limit)
    leases = take_chosen(tx, request, chosen)
    changes = [
        Change(lease.run_id, Move.CLAIM, lease.task_id, lease.attempt, TaskState.AVAILABLE, TaskState.RUNNING)
        for lease in leases
    ]
    record(tx, changes)
    return Later(lambda: (leases, go_on))


def _groups_behind(tx: Transaction, request: ClaimRequest, start: str) -> list[str]:
    binds = {"from_queue": request.queue, "start": start}
    found: list[str] = tx.execute(_groups(tx.dialect), binds).scalars()
    return found


@statement
def _groups(dialect: Dialect) -> sa.Select[Any]:
    """The different `limit_keys` of available tasks, from one index entry to the next that differs."""
    rows = task_state.alias("waiting")

    def next_behind(last: Any) -> Any:
        query = sa.select(sa.func.min(rows.c.limit_keys)).where(
            state_is(rows.c.state, TaskState.AVAILABLE),
            rows.c.limit_keys.is_not(None),
            rows.c.queue == sa.bindparam("from_queue", type_=sa.Text),
            rows.c.limit_keys > last,
        )
        return query.scalar_subquery()

    first = sa.select(next_behind(sa.bindparam("start", type_=sa.Text)).label("keys"))
    groups = first.cte("groups", recursive=True)
    groups = groups.union_all(sa.select(next_behind(groups.c["keys"])).where(groups.c["keys"].is_not(None)))
    return sa.select(groups.c["keys"]).where(groups.c["keys"].is_not(None)).limit(_MAX_GROUPS)


def _free(tx: Transaction, groups: Sequence[str]) -> dict[str, int]:
    """By key, how many more tasks may run. Holds the limits."""
    keys = sorted({key for group in groups for key in group.split(_BETWEEN)})
    if not keys:
        return {}
    rows = tx.execute(_lock(tx.dialect), {"keys": tx.dialect.array(keys)}).all()
    running = _by_key(tx)
    known = {row.key: row.at_most for row in rows}
    return {key: known.get(key, 1) - running[key] for key in keys}


def _by_key(tx: Transaction) -> Counter[str]:
    """How many tasks run now, for each key that one of them names."""
    running: Counter[str] = Counter()
    for row in tx.execute(_running(tx.dialect)):
        running.update(dict.fromkeys(row.limit_keys.split(_BETWEEN), row.number))
    return running


@statement
def _running(dialect: Dialect) -> sa.Select[Any]:
    return (
        sa.select(task_state.c.limit_keys, sa.func.count().label("number"))
        .where(state_is(task_state.c.state, TaskState.RUNNING), is_limited)
        .group_by(task_state.c.limit_keys)
    )


def _candidates(tx: Transaction, request: ClaimRequest, rooms: Mapping[str, int]) -> list[Any]:
    """The first tasks of each group, at most as many as it has room for, in the order of the queue."""
    asked = {"from_queue": request.queue, "kinds": tx.dialect.array(request.kinds)}
    answers = [
        tx.execute(_first(tx.dialect), {**asked, "group": group, "at_most": room})
        for group, room in rooms.items()
    ]
    found = [row for rows in answers for row in rows]
    return sorted(found, key=lambda row: (row.rank, row.available_at, row.task_id))


@statement
def _first(dialect: Dialect) -> sa.Select[Any]:
    row = task_state.c
    return (
        sa.select(row.task_id, row.limit_keys, row.rank, row.available_at)
        .where(
            state_is(row.state, TaskState.AVAILABLE),
            row.limit_keys == sa.bindparam("group", type_=sa.Text),
            is_limited,
            row.queue == sa.bindparam("from_queue", type_=sa.Text),
            row.available_at <= moment_of(dialect, row.available_at),
            dialect.is_any(row.kind, "kinds"),
        )
        .order_by(row.rank, row.available_at, row.task_id)
        .limit(sa.bindparam("at_most", type_=sa.Integer))
    )


def _choose(candidates: Iterable[Any], free: Mapping[str, int], limit: int) -> list[int]:
    left = Counter(free)
    chosen: list[int] = []
    for row in candidates:
        keys = row.limit_keys.split(_BETWEEN)
        if len(chosen) < limit and all(left[key] > 0 for key in keys):
            left.subtract(keys)
            chosen.append(row.task_id)
    return chosen
