"""Submit: what is stored, what is refused, what a key repeats."""

from __future__ import annotations

import pytest

from engine.errors import GraphError, IdempotencyMismatch, UnknownKind
from engine.model.graph import Graph
from engine.model.outcomes import Failed, Succeeded
from engine.operations import runs, submits, totals
from engine.store.database import Database
from tests.factories import (
    claim,
    counts,
    do,
    end_all,
    events,
    finish,
    graph,
    rows,
    run_of,
    session,
    spec,
    states,
    submit,
    task_of,
)


def test_a_graph_is_stored_whole(database: Database) -> None:
    accepted = submit(database, Graph(graph("a -> b, c -> d").tasks, name="nightly", labels={"k": "ü"}))
    run = run_of(database, accepted.run_id)
    assert (run.state, run.total, run.events, run.name, run.labels) == (
        "pending",
        4,
        1,
        "nightly",
        {"k": "ü"},
    )
    assert states(database, accepted.run_id) == {
        "a": "available",
        "b": "blocked",
        "c": "blocked",
        "d": "blocked",
    }
    edges = do(runs.edges(database, accepted.run_id))
    assert edges == [("a", "b", None), ("a", "c", None), ("b", "d", None), ("c", "d", None)]
    assert task_of(database, accepted.run_id, "d").depends_on == ("b", "c")
    assert list(accepted.task_ids) == ["a", "b", "c", "d"]
    assert [(e.number, e.kind, e.detail) for e in events(database, accepted.run_id)] == [
        (1, "run.submitted", {"tasks": 4, "edges": 4})
    ]


def test_a_repeated_dependency_does_not_strand_the_child(database: Database) -> None:
    accepted = submit(database, Graph((spec("a"), spec("b", "a", "a"))))
    assert task_of(database, accepted.run_id, "b").waiting_on == 1
    end_all(database)
    assert run_of(database, accepted.run_id).state == "succeeded"


def test_what_is_wrong_leaves_nothing_behind(database: Database) -> None:
    with pytest.raises(GraphError):
        submit(database, Graph((spec("a"), spec("b", "ghost"))))
    with pytest.raises(UnknownKind):
        submit(database, "a", known_kinds={"shell"})
    with pytest.raises(GraphError):
        do(submits.submit_many(database, [graph("a"), Graph(())]))
    assert set(counts(database).values()) == {0}
    assert not +do(totals.read(database))


def test_many_graphs_in_one_transaction(database: Database) -> None:
    accepted = do(submits.submit_many(database, [graph("a -> b"), graph("c"), graph("d; e")]))
    assert [list(one.task_ids) for one in accepted] == [["a", "b"], ["c"], ["d", "e"]]
    assert [run_of(database, one.run_id).total for one in accepted] == [2, 1, 2]
    end_all(database)
    assert {run.state for run in do(runs.list_runs(database))} == {"succeeded"}
    assert do(totals.read(database))["submitted:noop"] == 5


def test_a_key_that_was_used_gives_the_same_run(database: Database) -> None:
    key = submits.Key("scope", "key", "hash")
    first = submit(database, "a -> b", key=key)
    again = submit(database, "a -> b", key=key)
    assert (again.run_id, again.task_ids, again.is_repeat) == (first.run_id, first.task_ids, True)
    with pytest.raises(IdempotencyMismatch):
        submit(database, "a", key=submits.Key("scope", "key", "other"))
    assert submit(database, "a", key=submits.Key("other scope", "key", "hash")).run_id != first.run_id
    assert counts(database)["run"] == 2


@pytest.mark.parametrize("wide", [True, False])
def test_a_large_graph_runs_to_its_end(database: Database, wide: bool) -> None:
    size = 400
    specs = [spec("t0"), *(spec(f"t{i}", "t0" if wide else f"t{i - 1}") for i in range(1, size))]
    accepted = submit(database, Graph(tuple(specs)))
    one = session(database)
    leases = claim(database, one)
    finish(database, (leases[0], Failed("no")))
    run = run_of(database, accepted.run_id)
    assert (run.state, run.skipped, run.failed) == ("failed", size - 1, 1)
    assert run.events == 1 + 2 + size + 1
    do(runs.retry(database, accepted.run_id))
    assert {row.waiting_on for row in rows(database, "SELECT waiting_on FROM task_state")} <= {0, 1}
    [again] = claim(database, one)
    finish(database, (again, Succeeded()))
    assert len(claim(database, one, size)) == (size - 1 if wide else 1)
