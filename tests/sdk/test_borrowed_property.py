"""Random graphs and workflows in random transactions of callers: what does not commit leaves no trace."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine.model.graph import Graph, Rule
from engine.model.workflow_graph import graph_of
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from engine.operations import runs
from engine.store.database import Database
from engine.store.schema import metadata
from tests.factories import KIND, do, end_all, graph, states
from tests.sdk.callers import Caller
from tests.sdk.conftest import Contents, Run
from tests.sdk.test_submit import graphs, sizes
from tests.worker.bench import until, working

FINAL = {"succeeded", "failed", "skipped", "cancelled"}
ENDINGS = ["commit", "rollback", "exception", "savepoint"]
_OF_RUNS = {"run": "id", "event": "run_id", "task": "run_id", "task_state": "run_id", "saga": "run_id"}
_OF_TASKS = {"task": "id", "task_state": "task_id", "edge": "child_id", "compensation": "task_id"}


class Abandoned(Exception):
    """What a program raises in the middle of its transaction."""


@st.composite
def workflows(draw: st.DrawFn) -> Graph:
    """The graph of a run of one."""
    names = [f"t{number}" for number in range(draw(st.integers(1, 6)))]
    undo = st.none() | st.just(UndoFunction("undo", {"day": "${day}"}))
    tasks = [
        WorkflowTask(
            name,
            kind=KIND,
            params={"day": "${day}", **({"of": f"${{{{ tasks.{parents[0]}.result }}}}"} if parents else {})},
            depends_on=parents,
            rule=draw(st.sampled_from(Rule)),
            retry_count=draw(st.integers(0, 3)),
            priority=draw(st.integers(-3, 3)),
            compensation=draw(undo),
        )
        for place, name in enumerate(names)
        for parents in [
            draw(st.lists(st.sampled_from(names[:place]), unique=True, max_size=3)) if place else []
        ]
    ]
    drawn = Workflow("drawn", params={"day": "today"}, tasks=tasks)
    return graph_of(drawn, drawn.effective_params({}))


@st.composite
def workable(draw: st.DrawFn) -> Graph:
    """As `graphs`, of a kind and in the queue that the test works."""
    drawn = draw(graphs())
    return replace(drawn, tasks=tuple(replace(task, kind=KIND, queue="default") for task in drawn.tasks))


submitted = st.lists(workable() | workflows(), min_size=1, max_size=3)


@pytest.fixture
def seen(caller_url: str) -> Iterator[Database]:
    """The database as a worker sees it."""
    database = Database(caller_url, wake_others=False)
    yield database
    database.close()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(kept=submitted, dropped=submitted, ending=st.sampled_from(ENDINGS), together=st.booleans())
def test_what_commits_is_whole_and_runs_and_what_does_not_was_never_there(
    caller: Caller,
    contents: Contents,
    seen: Database,
    run: Run[Any],
    kept: list[Graph],
    dropped: list[Graph],
    ending: str,
    together: bool,
) -> None:
    run(caller.rollback())  # an example that failed may have left its transaction open
    before = contents()
    stays, goes = run(perform(caller, ending, kept, dropped, together))
    after = contents()
    assert tables_with(after, goes) == set()
    if not stays:
        assert after == before
        return
    assert gained(before, after) == expected(kept)
    end_all(seen)
    for accepted in stays:
        assert do(runs.get(seen, accepted.run_id)).finished_at is not None
        assert set(states(seen, accepted.run_id).values()) <= FINAL
    assert tables_with(contents(), goes) == set()


async def perform(
    caller: Caller, ending: str, kept: list[Graph], dropped: list[Graph], together: bool
) -> tuple[list[engine.Accepted], list[engine.Accepted]]:
    """What is submitted by a transaction that ends like this: what stays, and what goes."""
    if ending == "exception":
        return [], await abandon(caller, kept, together)
    accepted = await submit(caller, kept, together)
    if ending == "rollback":
        await caller.rollback()
        return [], accepted
    others: list[engine.Accepted] = []
    if ending == "savepoint":
        await caller.execute("SAVEPOINT mine")
        others = await submit(caller, dropped, together)
        await caller.execute("ROLLBACK TO SAVEPOINT mine")
        await caller.execute("RELEASE SAVEPOINT mine")
    await caller.commit()
    return accepted, others


async def submit(caller: Caller, graphs: list[Graph], together: bool) -> list[engine.Accepted]:
    if together:
        return await caller.submit_many(graphs)
    return [await caller.submit(one) for one in graphs]


async def abandon(caller: Caller, graphs: list[Graph], together: bool) -> list[engine.Accepted]:
    """Raise within a transaction block of the caller's own library."""
    block, accepted = block_of(caller.handle), []
    with suppress(Abandoned):
        if isinstance(block, AbstractAsyncContextManager):
            async with block:
                accepted = await submit(caller, graphs, together)
                raise Abandoned
        with block:
            accepted = await submit(caller, graphs, together)
            raise Abandoned
    return accepted


def block_of(handle: Any) -> Any:
    if isinstance(handle, sqlite3.Connection):
        return handle
    is_psycopg = isinstance(handle, psycopg.Connection | psycopg.AsyncConnection)
    return handle.transaction() if is_psycopg else handle.begin()


# --- what is there

Rows = dict[str, list[tuple[Any, ...]]]


def tables_with(found: Rows, accepted: Sequence[engine.Accepted]) -> set[str]:
    """Tables in which a row belongs to one of these runs."""
    run_ids = {one.run_id for one in accepted}
    task_ids = {task_id for one in accepted for task_id in one.task_ids.values()}
    ids = [(_OF_RUNS, run_ids), (_OF_TASKS, task_ids)]
    return {
        table
        for columns, wanted in ids
        for table, column in columns.items()
        if wanted & {row[place_of(table, column)] for row in found[table]}
    }


def place_of(table: str, column: str) -> int:
    return list(metadata.tables[table].c.keys()).index(column)


def gained(before: Rows, after: Rows) -> dict[str, int]:
    counted = {**sizes(after), "saga": len(after["saga"]), "compensation": len(after["compensation"])}
    had = {**sizes(before), "saga": len(before["saga"]), "compensation": len(before["compensation"])}
    return {table: counted[table] - had[table] for table in counted}


def expected(kept: list[Graph]) -> dict[str, int]:
    tasks = [task for one in kept for task in one.tasks]
    undone = [task for task in tasks if task.compensation is not None]
    sagas = [one for one in kept if any(task.compensation is not None for task in one.tasks)]
    return {
        "run": len(kept),
        "task": len(tasks),
        "task_state": len(tasks),
        "edge": sum(len(task.depends_on) for task in tasks),
        "event": len(kept),
        "saga": len(sagas),
        "compensation": len(undone),
    }


# --- and a worker of its own


def test_a_worker_works_what_was_committed_and_nothing_else(
    caller: Caller, seen: Database, run: Run[Any]
) -> None:
    def named(name: str) -> Graph:
        drawn = graph(f"{name}1 -> {name}2, {name}3 -> {name}4")
        return replace(drawn, tasks=tuple(replace(task, kind="fine") for task in drawn.tasks))

    async def work() -> None:
        dropped = await caller.submit(named("dropped"))
        await caller.rollback()
        kept = await caller.submit(named("kept"))
        await caller.commit()
        async with working(seen):
            await until(lambda: is_over(seen, kept.run_id))
        tasks = await runs.tasks(seen, kept.run_id)
        assert [(task.name, task.attempt, str(task.state)) for task in tasks] == [
            (f"kept{number}", 1, "succeeded") for number in (1, 2, 3, 4)
        ]
        if dropped.run_id != kept.run_id:  # ids that were never there may be given again
            assert dropped.run_id not in {one.id for one in await runs.list_runs(seen)}

    run(work())


async def is_over(database: Database, run_id: int) -> bool:
    return (await runs.get(database, run_id)).finished_at is not None
