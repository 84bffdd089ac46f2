"""Sagas: which compensations a failed run leads to, in which order, and what people do about them."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import Conflict, GraphError, InvalidInput, NotFound
from engine.model.graph import Compensation, TaskSpec
from engine.model.outcomes import Awaiting, Crashed, Failed, Outcome, Succeeded
from engine.model.records import Lease
from engine.model.retry import RetryPolicy
from engine.model.sagas import SagaState, Skip
from engine.operations import runs, sagas, tasks
from engine.store.database import Database
from tests.factories import (
    KIND,
    claim,
    do,
    end_all,
    finish,
    graph,
    run_of,
    session,
    states,
    submit,
    task_of,
)

UNDO = Compensation(KIND, {"why": "undo"})


def order(**changes: dict[str, Any]) -> Any:
    """Four steps in a row; the first three can be undone."""
    undone = {name: {"compensation": UNDO} for name in ("reserve", "charge", "ship")}
    return graph("reserve -> charge -> ship -> notify", **{**undone, **changes})


def steps(database: Database, worker: int, outcomes: dict[str, Outcome]) -> None:
    """Run what is claimable until nothing is, with these outcomes; others succeed."""
    while leases := claim(database, worker):
        finish(
            database, *((lease, outcomes.get(lease.name, Succeeded({"of": lease.name}))) for lease in leases)
        )


def test_what_succeeded_is_undone_last_first(database: Database) -> None:
    run_id = submit(database, order()).run_id
    worker = session(database)
    for name in ("reserve", "charge", "ship"):
        [lease] = claim(database, worker)
        assert lease.name == name
        finish(database, (lease, Succeeded({"of": name})))
    assert do(sagas.get(database, run_id)).state is SagaState.PENDING
    [lease] = claim(database, worker)
    finish(database, (lease, Failed("no stock")))

    report = do(sagas.get(database, run_id))
    assert report.state is SagaState.COMPENSATING
    assert [task.name for task in report.compensations] == ["ship", "charge", "reserve"]
    assert [task.depends_on for task in report.compensations] == [(), ("ship",), ("charge",)]
    undone: list[Lease] = []
    while leases := claim(database, worker):
        undone += leases
        finish(database, *((lease, Succeeded()) for lease in leases))
    assert [lease.name for lease in undone] == ["ship", "charge", "reserve"]
    assert do(sagas.get(database, run_id)).state is SagaState.COMPENSATED
    assert run_of(database, run_id).state == "failed"


def test_a_function_that_undoes_learns_what_was_done(database: Database) -> None:
    how = Compensation("function", {"function": "release", "params": {"warehouse": 3}})
    run_id = submit(
        database, graph("reserve -> ship", reserve={"compensation": how, "params": {"n": 1}})
    ).run_id
    steps(database, session(database), {"ship": Failed("no")})
    [task] = do(sagas.get(database, run_id)).compensations
    assert task.params == {
        "function": "release",
        "params": {"warehouse": 3},
        "offered": {
            "_saga_transaction_id": str(run_id),
            "_compensate_step": 1,
            "_total_steps": 1,
            "_task_id": str(task_of(database, run_id, "reserve").id),
            "_task_name": "reserve",
            "_params": {"n": 1},
            "_result": {"of": "reserve"},
            "_is_unknown": False,
        },
    }


def test_of_a_task_that_is_a_function_what_undoes_it_gets_the_function_s_own_params(
    database: Database,
) -> None:
    how = Compensation("function", {"function": "release"})
    given = {"function": "reserve", "params": {"seats": 2}}
    run_id = submit(
        database,
        graph("reserve -> ship", reserve={"kind": "function", "compensation": how, "params": given}),
    ).run_id
    worker = session(database)
    [lease] = claim(database, worker, kinds=("function",))
    finish(database, (lease, Succeeded()))
    steps(database, worker, {"ship": Failed("no")})
    [task] = do(sagas.get(database, run_id)).compensations
    assert task.params["offered"]["_params"] == {"seats": 2}


@pytest.mark.parametrize(
    ("outcome", "is_undone"),
    [
        (Failed("refused"), False),
        (Failed("took too long", code="timeout"), True),
        (Crashed(), True),
    ],
)
def test_a_step_of_which_nobody_knows_how_far_it_came_is_undone_too(
    database: Database, outcome: Outcome, is_undone: bool
) -> None:
    once = {"compensation": UNDO, "retry": RetryPolicy(max_attempts=1, max_crashes=1)}
    run_id = submit(database, order(charge=once)).run_id
    steps(database, session(database), {"charge": outcome})
    report = do(sagas.get(database, run_id))
    names = [task.name for task in report.compensations]
    assert names == (["charge", "reserve"] if is_undone else ["reserve"])


def test_the_run_ends_first_other_branches_go_on(database: Database) -> None:
    two = graph("a; b -> c", a={"compensation": UNDO}, b={"compensation": UNDO}, c={"compensation": UNDO})
    run_id = submit(database, two).run_id
    worker = session(database)
    first = {lease.name: lease for lease in claim(database, worker)}
    finish(database, (first["a"], Failed("no")))
    assert do(sagas.get(database, run_id)).state is SagaState.PENDING
    finish(database, (first["b"], Succeeded()))
    [c] = claim(database, worker)
    finish(database, (c, Succeeded()))  # the last ending is a success, and yet the run has failed
    assert [task.name for task in do(sagas.get(database, run_id)).compensations] == ["c", "b"]


def test_of_what_ended_in_one_transaction_the_later_task_is_undone_first(database: Database) -> None:
    run_id = submit(
        database, graph("a -> d; b -> d; c -> d", **{name: {"compensation": UNDO} for name in "abc"})
    ).run_id
    steps(database, session(database), {"d": Failed("no")})
    assert [task.name for task in do(sagas.get(database, run_id)).compensations] == ["c", "b", "a"]


def test_the_others_run_though_one_compensation_fails_and_it_can_be_retried(database: Database) -> None:
    run_id = submit(database, order()).run_id
    worker = session(database)
    for _ in range(3):
        [lease] = claim(database, worker)
        finish(database, (lease, Succeeded()))
    steps(database, worker, {"notify": Failed("no"), "charge": Failed("bank is closed")})
    report = do(sagas.get(database, run_id))
    assert report.state is SagaState.FAILED
    assert states(database, report.compensation_run_id or 0) == {
        "ship": "succeeded",
        "charge": "failed",
        "reserve": "succeeded",
    }
    assert do(sagas.retry(database, run_id)).state is SagaState.COMPENSATING
    steps(database, worker, {})
    assert do(sagas.get(database, run_id)).state is SagaState.COMPENSATED


def test_a_failed_saga_is_signed_off_with_a_reason(database: Database) -> None:
    run_id = submit(database, graph("a -> b", a={"compensation": UNDO})).run_id
    worker = session(database)
    with pytest.raises(Conflict, match=f"saga of run {run_id} is pending; only a failed one"):
        do(sagas.sign_off(database, run_id, reason="early"))
    [lease] = claim(database, worker)
    finish(database, (lease, Succeeded()))
    steps(database, worker, {"b": Failed("no"), "a": Failed("cannot")})
    assert do(sagas.get(database, run_id)).state is SagaState.FAILED
    report = do(sagas.sign_off(database, run_id, reason="refunded by hand", actor="ann"))
    assert (report.state, report.signed_off_by, report.reason) == (
        SagaState.SIGNED_OFF,
        "ann",
        "refunded by hand",
    )
    last = do(runs.events(database, run_id))[-1]
    assert (last.kind, last.actor) == ("saga.signed_off", "ann")
    assert last.detail == {"reason": "refunded by hand", "failed": ["a"]}


# --- compensations that are skipped


FAILED = {"notify": Failed("no"), "charge": Failed("bank is closed"), "ship": Failed("sunk")}


@pytest.fixture
def failed(database: Database) -> int:
    """A saga of which two compensations out of three have failed."""
    run_id = submit(database, order()).run_id
    worker = session(database)
    for _ in range(3):
        [lease] = claim(database, worker)
        finish(database, (lease, Succeeded()))
    steps(database, worker, FAILED)
    assert do(sagas.get(database, run_id)).state is SagaState.FAILED
    return run_id


def skips(database: Database, run_id: int) -> dict[str, Skip]:
    report = do(sagas.get(database, run_id))
    return {task.name: report.skips[task.id] for task in report.compensations if task.id in report.skips}


def test_a_skipped_compensation_stays_as_it_is_when_the_others_are_retried(
    database: Database, failed: int
) -> None:
    report = do(sagas.skip(database, failed, ["ship"], reason="sunk for good", actor="ann"))
    assert report.state is SagaState.FAILED
    assert skips(database, failed) == {"ship": Skip("ann", "sunk for good")}
    last = do(runs.events(database, failed))[-1]
    assert (last.kind, last.actor) == ("saga.skipped", "ann")
    assert last.detail == {"reason": "sunk for good", "skipped": ["ship"]}

    report = do(sagas.retry(database, failed))
    assert report.state is SagaState.COMPENSATING
    assert [lease.name for lease in claim(database, session(database))] == ["charge"]


def test_what_is_left_after_a_skip_ends_the_saga_as_signed_off(database: Database, failed: int) -> None:
    do(sagas.skip(database, failed, ["ship"], reason="sunk"))
    do(sagas.retry(database, failed))
    steps(database, session(database), {})
    report = do(sagas.get(database, failed))
    assert report.state is SagaState.SIGNED_OFF
    assert states(database, report.compensation_run_id or 0) == {
        "ship": "failed",
        "charge": "succeeded",
        "reserve": "succeeded",
    }


def test_a_saga_is_signed_off_when_the_last_of_those_that_failed_is_skipped(
    database: Database, failed: int
) -> None:
    assert do(sagas.skip(database, failed, ["ship"], reason="one")).state is SagaState.FAILED
    report = do(sagas.skip(database, failed, ["charge"], reason="two", actor="bob"))
    assert report.state is SagaState.SIGNED_OFF
    assert skips(database, failed) == {"ship": Skip("local", "one"), "charge": Skip("bob", "two")}
    for act in (sagas.retry(database, failed), sagas.skip(database, failed, ["ship"], reason="again")):
        with pytest.raises(Conflict, match=f"the saga of run {failed} is signed_off; only"):
            do(act)


def test_the_run_of_the_compensations_itself_does_not_run_skipped_ones_again(
    database: Database, failed: int
) -> None:
    report = do(sagas.skip(database, failed, ["ship"], reason="sunk"))
    do(runs.retry(database, report.compensation_run_id or 0))
    assert states(database, report.compensation_run_id or 0)["ship"] == "failed"
    assert [lease.name for lease in claim(database, session(database))] == ["charge"]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["ship", "notify"], NotFound, "has no compensation of task 'notify'"),
        (
            ["ship", "reserve"],
            InvalidInput,
            "compensation of task 'reserve' is succeeded; only one that failed",
        ),
        ([], InvalidInput, "name at least one"),
        (["ship", "a\0b"], InvalidInput, "cannot be stored"),
    ],
)
def test_what_cannot_be_skipped_leaves_all_as_it_was(
    database: Database, failed: int, names: list[str], error: type[Exception], message: str
) -> None:
    before = do(runs.events(database, failed))
    with pytest.raises(error, match=message):
        do(sagas.skip(database, failed, names, reason="why"))
    assert skips(database, failed) == {}
    assert do(runs.events(database, failed)) == before


def test_the_first_word_about_a_skip_stays(database: Database, failed: int) -> None:
    do(sagas.skip(database, failed, ["ship", "ship"], reason="first"))
    with pytest.raises(InvalidInput, match="'ship' is skipped already"):
        do(sagas.skip(database, failed, ["ship"], reason="second"))
    assert skips(database, failed) == {"ship": Skip("local", "first")}


def test_only_compensations_of_a_failed_saga_can_be_skipped(database: Database) -> None:
    run_id = submit(database, order()).run_id
    with pytest.raises(
        Conflict, match=f"the saga of run {run_id} is pending; only compensations of a failed"
    ):
        do(sagas.skip(database, run_id, ["ship"], reason="early"))


def test_a_compensation_that_was_cancelled_can_be_skipped(database: Database) -> None:
    run_id = submit(database, order()).run_id
    worker = session(database)
    for outcome in (Succeeded(), Succeeded(), Failed("no")):
        [lease] = claim(database, worker)
        finish(database, (lease, outcome))
    do(runs.cancel(database, do(sagas.get(database, run_id)).compensation_run_id or 0))
    assert do(sagas.get(database, run_id)).state is SagaState.FAILED
    report = do(sagas.skip(database, run_id, ["charge", "reserve"], reason="never mind"))
    assert report.state is SagaState.SIGNED_OFF


def test_sub_tasks_of_a_skipped_compensation_are_skipped_with_it(database: Database) -> None:
    run_id = submit(database, order()).run_id
    worker = session(database)
    for outcome in (Succeeded(), Succeeded(), Failed("no")):
        [lease] = claim(database, worker)
        finish(database, (lease, outcome))
    [lease] = claim(database, worker)
    do(tasks.spawn(database, lease, [TaskSpec("part", KIND)], actor="w", awaited=True))
    finish(database, (lease, Awaiting()))
    steps(database, worker, {name: Failed("no") for name in ("part", "charge", "reserve")})
    assert do(sagas.get(database, run_id)).state is SagaState.FAILED

    with pytest.raises(InvalidInput, match="'part' is a part of another compensation"):
        do(sagas.skip(database, run_id, ["part"], reason="why"))
    do(sagas.skip(database, run_id, ["charge"], reason="why"))
    compensations = do(sagas.retry(database, run_id)).compensation_run_id or 0
    assert states(database, compensations) == {
        "charge": "failed",
        "part": "failed",
        "reserve": "available",
    }
    steps(database, worker, {})
    assert do(sagas.get(database, run_id)).state is SagaState.SIGNED_OFF


def test_before_the_end_the_saga_tells_what_would_be_undone(database: Database) -> None:
    run_id = submit(database, order()).run_id
    worker = session(database)
    for _ in range(2):
        [lease] = claim(database, worker)
        finish(database, (lease, Succeeded({"of": lease.name})))
    report = do(sagas.get(database, run_id))
    assert [(undo.name, undo.result) for undo in report.undos] == [
        ("charge", {"of": "charge"}),
        ("reserve", {"of": "reserve"}),
    ]
    assert report.compensations == []


def test_a_run_that_succeeds_or_is_cancelled_is_not_undone(database: Database) -> None:
    run_id = submit(database, order()).run_id
    end_all(database)
    assert do(sagas.get(database, run_id)).state is SagaState.COMMITTED
    other = submit(database, order()).run_id
    do(runs.cancel(database, other))
    assert do(sagas.get(database, other)).state is SagaState.COMMITTED
    assert len(do(runs.list_runs(database))) == 2


def test_a_run_that_is_undone_cannot_be_retried(database: Database) -> None:
    run_id = submit(database, order()).run_id
    end_all(database, "notify")
    undone_by = do(sagas.get(database, run_id)).compensation_run_id
    with pytest.raises(Conflict, match=f"run {run_id} is undone by run {undone_by}; start it anew"):
        do(runs.retry(database, run_id))


def test_a_failed_run_with_nothing_to_undo_is_compensated_at_once_and_can_be_retried(
    database: Database,
) -> None:
    run_id = submit(database, order()).run_id
    end_all(database, "reserve")
    report = do(sagas.get(database, run_id))
    assert (report.state, report.compensation_run_id) == (SagaState.COMPENSATED, None)
    do(runs.retry(database, run_id))
    assert do(sagas.get(database, run_id)).state is SagaState.PENDING


def test_runs_without_compensations_are_no_sagas(database: Database) -> None:
    run_id = submit(database, "a").run_id
    with pytest.raises(NotFound, match="is no saga"):
        do(sagas.get(database, run_id))
    with pytest.raises(NotFound, match="run not found: 99"):
        do(sagas.get(database, 99))


def test_what_sub_tasks_did_is_undone_as_well(database: Database) -> None:
    run_id = submit(database, order()).run_id
    worker = session(database)
    [lease] = claim(database, worker)
    part = TaskSpec("part", KIND, compensation=UNDO)
    do(tasks.spawn(database, lease, [part], actor="w", awaited=False))
    finish(database, (lease, Succeeded()))
    steps(database, worker, {"notify": Failed("no")})
    undone = {task.name for task in do(sagas.get(database, run_id)).compensations}
    assert undone == {"part", "ship", "charge", "reserve"}


def test_a_compensation_cannot_be_added_to_a_run_that_is_no_saga(database: Database) -> None:
    submit(database, graph("a"))
    [lease] = claim(database, session(database))
    with pytest.raises(GraphError, match="a compensation can be added to a run only if one of its own"):
        do(tasks.spawn(database, lease, [TaskSpec("part", KIND, compensation=UNDO)], actor="w"))
