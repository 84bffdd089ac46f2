"""Runs submitted in a caller's transaction: there if it commits, and not otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import engine
from engine.errors import GraphError, IdempotencyMismatch, InvalidInput
from engine.model.graph import Dependency, Graph, Rule, TaskSpec
from tests.factories import graph, spec
from tests.sdk.callers import Caller
from tests.sdk.conftest import Contents, Run


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    size = draw(st.integers(1, 8))
    text = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=10)
    names = draw(st.lists(text, min_size=size, max_size=size, unique=True))
    tasks = []
    for index, name in enumerate(names):
        parents = draw(st.lists(st.sampled_from(names[:index]), unique=True)) if index else []
        tasks.append(
            TaskSpec(
                name=name,
                kind=draw(text),
                params=draw(st.none() | st.dictionaries(text, st.integers(-9, 9) | text, max_size=2)),
                depends_on=tuple(Dependency(parent) for parent in parents),
                rule=draw(st.sampled_from(Rule)),
                queue=draw(st.sampled_from(["default", "other"])),
                priority=draw(st.integers(-3, 3)),
            )
        )
    return Graph(
        tuple(tasks), name=draw(st.none() | text), labels=draw(st.dictionaries(text, text, max_size=2))
    )


def sizes(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, int]:
    return {name: len(found[name]) for name in ("run", "task", "task_state", "edge", "event")}


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(submitted=st.lists(graphs(), min_size=1, max_size=3), commits=st.booleans(), together=st.booleans())
def test_a_run_is_there_if_and_only_if_its_transaction_commits(
    caller: Caller, contents: Contents, run: Run[Any], submitted: list[Graph], commits: bool, together: bool
) -> None:
    before = contents()
    if together:
        accepted = run(caller.submit_many(submitted))
    else:
        accepted = [run(caller.submit(one)) for one in submitted]
    assert contents() == before  # nobody else sees it yet
    run(caller.commit() if commits else caller.rollback())
    after = contents()
    if not commits:
        assert after == before
        return
    edges = sum(len(task.depends_on) for one in submitted for task in one.tasks)
    tasks = sum(len(one.tasks) for one in submitted)
    gained = {name: size - sizes(before)[name] for name, size in sizes(after).items()}
    runs = len(submitted)
    assert gained == {"run": runs, "task": tasks, "task_state": tasks, "edge": edges, "event": runs}
    assert [list(one.task_ids) for one in accepted] == [
        [task.name for task in one.tasks] for one in submitted
    ]


def test_the_callers_own_writes_share_its_fate(caller: Caller, contents: Contents, run: Run[Any]) -> None:
    async def work(number: int) -> None:
        await caller.execute(f"INSERT INTO orders VALUES ({number})")
        await caller.submit(graph("a -> b"))
        await caller.execute(f"INSERT INTO orders VALUES ({number})")

    run(work(1))
    run(caller.rollback())
    run(work(2))
    run(caller.commit())
    assert [row[0] for row in run(caller.execute("SELECT id FROM orders"))] == [2, 2]
    assert sizes(contents())["run"] == 1


def test_a_savepoint_of_the_callers_takes_back_only_what_came_after_it(
    caller: Caller, contents: Contents, run: Run[Any]
) -> None:
    async def work() -> None:
        await caller.execute("INSERT INTO orders VALUES (1)")
        await caller.submit(graph("kept"))
        await caller.execute("SAVEPOINT mine")
        await caller.submit(graph("dropped"), key="k")
        await caller.execute("ROLLBACK TO SAVEPOINT mine")
        await caller.submit(graph("late"))
        await caller.execute("RELEASE SAVEPOINT mine")
        await caller.commit()

    run(work())
    assert sorted(row[3] for row in contents()["task"]) == ["kept", "late"]


def test_a_wrong_graph_leaves_the_transaction_usable(
    caller: Caller, contents: Contents, run: Run[Any]
) -> None:
    run(caller.execute("INSERT INTO orders VALUES (1)"))
    for wrong in (
        Graph(()),
        graph("a -> b -> a"),
        Graph((spec("a", params={"text": "\x00"}),)),
        Graph((spec("a", params=float("nan")),)),
        Graph((spec("a", params={1, 2}),)),
        Graph((spec("a", delay_ms=2**40),)),
        Graph((spec("a", queue="q\x00"),)),
        Graph((spec("a"),), labels={"l": "\ud800"}),
    ):
        with pytest.raises(GraphError):
            run(caller.submit(wrong))
        with pytest.raises(GraphError):
            run(caller.submit_many([graph("fine"), wrong]))
    with pytest.raises(InvalidInput, match="idempotency key"):
        run(caller.submit(graph("a"), key=""))
    run(caller.commit())
    assert [row[0] for row in run(caller.execute("SELECT id FROM orders"))] == [1]
    assert sizes(contents())["run"] == 0


def test_an_idempotency_key_finds_the_run_that_it_stands_for(
    caller: Caller, contents: Contents, run: Run[Any]
) -> None:
    first = run(caller.submit(graph("b -> a"), key="order-1"))
    again = run(caller.submit(graph("b -> a"), key="order-1"))  # still in the same transaction
    run(caller.commit())
    later = run(caller.submit(graph("b -> a"), key="order-1"))
    assert not first.is_repeat
    assert again.is_repeat and later.is_repeat
    assert again.run_id == later.run_id == first.run_id
    assert list(later.task_ids.items()) == list(first.task_ids.items())
    with pytest.raises(IdempotencyMismatch, match="order-1"):
        run(caller.submit(graph("b -> a -> c"), key="order-1"))
    with pytest.raises(IdempotencyMismatch):
        run(caller.submit(graph("b -> a"), key="order-1", name="other"))
    run(caller.execute("INSERT INTO orders VALUES (1)"))  # the transaction is still good
    run(caller.commit())
    assert sizes(contents())["run"] == 1


def test_a_key_of_a_rolled_back_run_is_free_again(caller: Caller, run: Run[Any]) -> None:
    run(caller.submit(graph("a"), key="k"))
    run(caller.rollback())
    assert not run(caller.submit(graph("b"), key="k")).is_repeat


def test_a_thousand_graphs_go_in_together(caller: Caller, contents: Contents, run: Run[Any]) -> None:
    accepted = run(caller.submit_many([graph("a -> b, c -> d")] * 1000))
    run(caller.commit())
    assert len({one.run_id for one in accepted}) == 1000
    assert len({task_id for one in accepted for task_id in one.task_ids.values()}) == 4000
    assert sizes(contents()) == {"run": 1000, "task": 4000, "task_state": 4000, "edge": 4000, "event": 1000}


def test_no_graphs_are_no_runs(caller: Caller, run: Run[Any]) -> None:
    assert run(caller.submit_many([])) == []


def test_the_name_of_the_run_can_be_given_apart(caller: Caller, contents: Contents, run: Run[Any]) -> None:
    run(caller.submit(graph("a"), name="nightly", actor="shop"))
    run(caller.commit())
    [stored] = contents()["run"]
    assert "nightly" in stored and "shop" in stored


def test_something_else_is_refused() -> None:
    with pytest.raises(InvalidInput, match="psycopg connection or a sqlite3 connection; got str"):
        engine.submit("sqlite:///file.db", graph("a"))  # type: ignore[call-overload]
