"""Which available tasks a claim takes: the first of a queue, in its order.

The index puts ranks before times: read as a whole, it shows all that waits for a later time as well (100,000
such tasks: 4 ms a claim). So it is read one rank after the other, each up to now.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from engine.model.states import TaskState
from engine.store.dialects.base import Dialect
from engine.store.schema import Id, state_is, task_state, worker_session
from engine.store.statement import moment_of

_RANK = sa.bindparam("after_rank", type_=sa.Integer)
_TIME = sa.bindparam("after_time", type_=task_state.c.available_at.type)
_ID = sa.bindparam("after_id", type_=Id)


def candidates(dialect: Dialect, bounded: bool) -> sa.Select[Any]:
    """At most `at_most` ids, locked; if `bounded`, behind a place in the queue."""
    return (_rank_by_rank if dialect.has_lateral else _all_ranks)(dialect, bounded)


def is_wanted(dialect: Dialect, rows: Any) -> tuple[sa.ColumnElement[bool], ...]:
    """`rows` of `task_state` are what the request asks for, without limits, and its session is alive."""
    return *_is_of_queue(rows), dialect.is_any(rows.c.kind, "kinds"), is_alive()


def is_alive() -> sa.ColumnElement[bool]:
    session = sa.select(sa.literal(1)).where(
        worker_session.c.id == sa.bindparam("session", type_=Id), worker_session.c.ended_at.is_(None)
    )
    return session.exists()


def _is_of_queue(rows: Any) -> tuple[sa.ColumnElement[bool], ...]:
    return rows.c.queue == sa.bindparam("from_queue", type_=sa.Text), rows.c.limit_keys.is_(None)


def _rank_by_rank(dialect: Dialect, bounded: bool) -> sa.Select[Any]:
    ranks = _ranks_from_place() if bounded else _ranks()
    waiting = task_state.alias("waiting")
    of_rank = _first(dialect, waiting).where(waiting.c.rank == ranks.c.rank)
    if bounded:
        place = sa.tuple_(waiting.c.available_at, waiting.c.task_id)
        of_rank = of_rank.where(place > sa.tuple_(ranks.c.after_time, ranks.c.after_id))
    found = of_rank.correlate(ranks).lateral("of_rank")
    # Joined in this order, and in no other: there is nothing to sort.
    return sa.select(found.c.task_id).join_from(ranks, found, sa.true()).limit(_at_most())


def _all_ranks(dialect: Dialect, bounded: bool) -> sa.Select[Any]:
    waiting = task_state.alias("waiting")
    query = _first(dialect, waiting)
    if bounded:
        place = sa.tuple_(waiting.c.rank, waiting.c.available_at, waiting.c.task_id)
        query = query.where(place > sa.tuple_(_RANK, _TIME, _ID))
    return query


def _first(dialect: Dialect, waiting: Any) -> sa.Select[Any]:
    return (
        sa.select(waiting.c.task_id)
        .where(
            state_is(waiting.c.state, TaskState.AVAILABLE),
            waiting.c.available_at <= moment_of(dialect, task_state.c.available_at),
            *is_wanted(dialect, waiting),
        )
        .order_by(waiting.c.rank, waiting.c.available_at, waiting.c.task_id)
        .limit(_at_most())
        .with_for_update(skip_locked=True, of=waiting)
    )


def _at_most() -> sa.BindParameter[int]:
    return sa.bindparam("at_most", type_=sa.Integer)


def _ranks() -> sa.CTE:
    """The ranks of what is available, whether it may start already or not."""
    ranks = sa.select(_next_rank().label("rank")).cte("ranks", recursive=True)
    return ranks.union_all(sa.select(_next_rank(behind=ranks.c.rank)).where(ranks.c.rank.is_not(None)))


def _ranks_from_place() -> sa.CTE:
    """From the rank of the bound on, each with the place in it behind which it is to be read."""
    ranks = sa.select(_RANK.label("rank"), _TIME.label("after_time"), _ID.label("after_id")).cte(
        "ranks", recursive=True
    )
    following = sa.select(
        _next_rank(behind=ranks.c.rank),
        sa.cast(sa.literal_column("'-infinity'"), task_state.c.available_at.type),
        sa.cast(sa.literal_column("0"), Id),
    )
    return ranks.union_all(following.where(ranks.c.rank.is_not(None)))


def _next_rank(behind: sa.ColumnElement[int] | None = None) -> sa.ColumnElement[int]:
    """The first rank, or the first `behind` another; null if there is none. One look into the index."""
    found = task_state.alias("found")
    query = sa.select(found.c.rank).where(state_is(found.c.state, TaskState.AVAILABLE), *_is_of_queue(found))
    if behind is not None:
        query = query.where(found.c.rank > behind)
    return query.order_by(found.c.rank).limit(1).scalar_subquery()
