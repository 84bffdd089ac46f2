"""What a lease allows, what is refused without it, and results that cannot be stored."""

from __future__ import annotations

from collections import UserDict
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.errors import Conflict, GraphError, LeaseLost, NotFound
from engine.functions.context import MAX_SECONDS
from engine.model.graph import Dependency, Graph, Rule
from engine.model.outcomes import Cancelled, Crashed, Failed, Outcome, Released, Succeeded, Usage
from engine.model.records import Lease
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import runs, steps, tasks, totals, workers
from engine.operations.submits import Accepted
from engine.store.database import Database
from tests.factories import (
    claim,
    claim_all,
    do,
    events,
    finish,
    graph,
    rows,
    run_of,
    running,
    session,
    spec,
    states,
    submit,
    task_of,
)

AGAIN = RetryPolicy(max_attempts=2, backoff=Backoff.FIXED, initial_ms=0, jitter=0)


def everything(database: Database) -> list[Any]:
    """Each table, whole, except for the count of what came too late."""
    tables = ("task_state", "attempt", "event", "run", "task", "task_log", "task_progress", "edge")
    found: list[Any] = [sorted(map(repr, rows(database, f"SELECT * FROM {table}"))) for table in tables]
    return [*found, sorted(map(repr, rows(database, "SELECT * FROM counter WHERE name <> 'late'")))]


@pytest.fixture(params=["available", "claimed anew"])
def lost(request: pytest.FixtureRequest, database: Database) -> tuple[Accepted, Lease]:
    """A lease that was taken back; with or without a new holder."""
    accepted, leases = running(database, graph("a -> b", a={"retry": AGAIN}))
    [seen] = do(workers.live(database))
    do(workers.expire(database, seen, 0))
    if request.param == "claimed anew":
        claim(database, session(database))
    return accepted, leases["a"]


# --- the fence


@pytest.mark.parametrize(
    "outcome", [Succeeded({"n": 1}), Failed("no"), Cancelled(), Released(), Succeeded(branch="x")], ids=repr
)
def test_outcome_of_a_lost_lease_changes_nothing(
    database: Database, lost: tuple[Accepted, Lease], outcome: Outcome
) -> None:
    before = everything(database)
    assert finish(database, (lost[1], outcome)) == [lost[1]]
    assert everything(database) == before
    assert do(totals.read(database))["late"] == 1


def test_progress_of_a_lost_lease_is_refused(database: Database, lost: tuple[Accepted, Lease]) -> None:
    before = everything(database)
    with pytest.raises(LeaseLost):
        do(tasks.report(database, lost[1], {"percent": 50}))
    assert everything(database) == before


def test_a_lost_lease_adds_no_tasks(database: Database, lost: tuple[Accepted, Lease]) -> None:
    before = everything(database)
    with pytest.raises(LeaseLost):
        do(tasks.spawn(database, lost[1], [spec("new")], actor="worker"))
    assert everything(database) == before


def test_log_lines_of_a_lost_lease_are_dropped(database: Database) -> None:
    _, leases = running(database, "a; b")
    [seen] = do(workers.live(database))
    do(workers.expire(database, seen, 0))
    again = claim_all(database, session(database))
    now = datetime.now(UTC)
    before = everything(database)
    do(
        tasks.append_logs(
            database,
            [(leases["a"].holder, 1, now, "stdout", "late"), (leases["b"].holder, 1, now, "log", "")],
        )
    )
    assert everything(database) == before
    lines = [(leases["a"].holder, 1, now, "stdout", "late"), (again["a"].holder, 1, now, "stdout", "current")]
    do(tasks.append_logs(database, lines))
    assert [row.text for row in rows(database, "SELECT text FROM task_log")] == ["current"]


def test_a_token_of_another_task_opens_nothing(database: Database) -> None:
    submit(database, "a")
    submit(database, "b")
    one, other = session(database), session(database)
    [a], [b] = claim(database, one, 1), claim(database, other, 1)
    mixed = a._replace(token=b.token)
    before = everything(database)
    assert finish(database, (mixed, Succeeded())) == [mixed]
    assert everything(database) == before


def test_one_lost_lease_in_a_batch_is_named_and_the_others_count(database: Database) -> None:
    accepted, leases = running(database, "a; b; c")
    finish(database, (leases["b"], Cancelled()))
    assert finish(database, *((lease, Succeeded()) for lease in leases.values())) == [leases["b"]]
    assert states(database, accepted.run_id) == {"a": "succeeded", "b": "cancelled", "c": "succeeded"}


# --- the same said twice


@pytest.mark.parametrize(
    "outcome", [Succeeded({"n": 1}), Failed("no"), Failed("no", is_permanent=True), Cancelled(), Released()]
)
def test_an_outcome_that_was_recorded_is_recognised(database: Database, outcome: Outcome) -> None:
    _, leases = running(database, graph("a -> b", a={"retry": AGAIN}))
    assert finish(database, (leases["a"], outcome)) == []
    before = everything(database)
    assert finish(database, (leases["a"], outcome)) == []
    assert finish(database, (leases["a"], outcome), (leases["a"], outcome)) == []
    assert everything(database) == before
    assert do(totals.read(database))["late"] == 0


def test_an_outcome_is_recognised_after_the_task_was_claimed_anew(database: Database) -> None:
    _, leases = running(database, graph("a", a={"retry": AGAIN}))
    finish(database, (leases["a"], Failed("no")))
    [again] = claim(database, session(database))
    before = everything(database)
    assert finish(database, (leases["a"], Failed("no"))) == []
    assert finish(database, (leases["a"], Succeeded())) == [leases["a"]]
    assert everything(database) == before
    assert finish(database, (again, Succeeded())) == []


def test_of_two_outcomes_in_one_batch_the_first_counts(database: Database) -> None:
    accepted, leases = running(database, "a -> b; c")
    ended = [(leases["a"], Succeeded()), (leases["c"], Succeeded()), (leases["a"], Succeeded())]
    assert finish(database, *ended) == []
    assert states(database, accepted.run_id) == {"a": "succeeded", "b": "available", "c": "succeeded"}
    assert len(do(tasks.attempts(database, accepted.task_ids["a"]))) == 1


@pytest.mark.parametrize("first", [Succeeded(), Failed("no")])
def test_the_first_outcome_counts_whatever_the_second_is(database: Database, first: Outcome) -> None:
    accepted, leases = running(database, "a; c")
    second = Failed("no") if isinstance(first, Succeeded) else Succeeded()
    assert finish(database, (leases["a"], first), (leases["a"], second), (leases["c"], Succeeded())) == []
    word = "succeeded" if isinstance(first, Succeeded) else "failed"
    assert states(database, accepted.run_id) == {"a": word, "c": "succeeded"}
    assert do(totals.read(database))["late"] == 0


def test_an_earlier_and_the_current_attempt_in_one_batch(database: Database) -> None:
    accepted, leases = running(database, "a")
    [seen] = do(workers.live(database))
    do(workers.expire(database, seen, 0))
    [again] = claim(database, session(database))
    assert finish(database, (leases["a"], Succeeded("old")), (again, Succeeded("new"))) == [leases["a"]]
    found = do(tasks.attempts(database, accepted.task_ids["a"]))
    assert [(one.number, one.outcome, one.result) for one in found] == [
        (1, "crashed", None),
        (2, "succeeded", "new"),
    ]


# --- results


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def exploding() -> list[Any]:
    value: list[Any] = [0] * 10
    for _ in range(9):
        value = [value] * 10
    return value


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError

    __str__ = __repr__


BAD = {
    "NUL": "a\x00b",
    "surrogate": ["\ud800"],
    "NaN": {"x": float("nan")},
    "1e400": 1e400,
    "10**400": 10**400,
    "deep": nested(10_000),
    "bytes": b"\xff",
    "circular": circular(),
    "exploding": exploding(),
    "object": Hostile(),
    "keys": {1: 1, None: 2},
    "set": {1},
    "dict-like": UserDict(a=1),
}


@pytest.mark.parametrize("bad", [["NUL"], list(BAD)], ids=["one of 100", "every kind"])
def test_unstorable_results_in_a_batch_fail_alone(database: Database, bad: list[str]) -> None:
    good = [f"t{i}" for i in range(100 - len(bad))]
    specs = [spec(name, retry=AGAIN) for name in good + bad]
    accepted, leases = running(database, Graph(tuple(specs)))
    results = {name: BAD.get(name, {"ok": 1}) for name in good + bad}
    ended = [(lease, Succeeded(results[name], usage=Usage(7, 8))) for name, lease in leases.items()]
    assert finish(database, *ended) == []
    now = states(database, accepted.run_id)
    assert {now[name] for name in good} == {"succeeded"}
    for name in bad:
        task = task_of(database, accepted.run_id, name)
        assert (task.state, task.attempt) == ("failed", 1), name  # and not tried again
        assert task.last is not None and task.last.error is not None
        assert task.last.error["code"] == "result_unstorable"
        assert (task.last.result, task.last.cpu_ms) == (None, 7)


def test_a_result_that_is_too_large_says_so(database: Database) -> None:
    accepted, leases = running(database, "a; b")
    huge, fits = "x" * (tasks.MAX_RESULT_BYTES + 1), "x" * (tasks.MAX_RESULT_BYTES - 2)
    assert finish(database, (leases["a"], Succeeded(huge)), (leases["b"], Succeeded(fits))) == []
    a, b = (task_of(database, accepted.run_id, name).last for name in "ab")
    assert a is not None and a.error is not None and a.error["code"] == "result_too_large"
    assert b is not None and b.result == fits


@pytest.mark.parametrize("bad", ["a\x00b", "\ud83d", "x" * 5_000_000])
def test_why_something_failed_is_kept_whatever_its_text(database: Database, bad: str) -> None:
    accepted, leases = running(database, "a; b; c")
    details = {"text": bad[:10], "n": float("nan")}
    ended: list[tuple[Lease, Outcome]] = [
        (leases["a"], Failed(bad, details=details)),
        (leases["b"], Cancelled(bad)),
    ]
    assert finish(database, *ended, (leases["c"], Succeeded())) == []
    assert states(database, accepted.run_id) == {"a": "failed", "b": "cancelled", "c": "succeeded"}
    last = task_of(database, accepted.run_id, "a").last
    assert last is not None and last.error is not None and last.error["message"]


def test_a_branch_that_cannot_be_stored_fails_the_attempt_alone(database: Database) -> None:
    accepted, leases = running(database, "a; b")
    assert finish(database, (leases["a"], Succeeded(branch="\x00")), (leases["b"], Succeeded())) == []
    assert states(database, accepted.run_id) == {"a": "failed", "b": "succeeded"}


def test_results_come_back_unchanged(database: Database) -> None:
    accepted, leases = running(database, "a")
    result = {
        "text": "é – 🙂\n\u2028",
        "numbers": [2**63 - 1, -(2**63), 0.1, 1e308],
        "none": None,
        "empty": [{}, ""],
    }
    finish(database, (leases["a"], Succeeded(result, usage=Usage(5, 6))))
    last = task_of(database, accepted.run_id, "a").last
    assert last is not None and last.result == result
    assert (last.outcome, last.cpu_ms, last.max_rss_kib, last.error) == ("succeeded", 5, 6, None)


def test_a_crash_is_recorded_as_such(database: Database) -> None:
    accepted, leases = running(database, "a")
    assert finish(database, (leases["a"], Crashed("killed"))) == []
    last = task_of(database, accepted.run_id, "a").last
    assert last is not None and last.outcome == "crashed"


# --- tasks that add tasks


def test_added_tasks_run_and_the_run_waits_for_them(database: Database) -> None:
    accepted, leases = running(database, "a")
    added = do(tasks.spawn(database, leases["a"], [spec("x"), spec("y", "x")], actor="worker"))
    assert states(database, accepted.run_id) == {"a": "running", "x": "available", "y": "blocked"}
    finish(database, (leases["a"], Succeeded()))
    assert run_of(database, accepted.run_id).state == "running"
    for name in ("x", "y"):
        finish(database, (claim_all(database, session(database))[name], Succeeded()))
    assert run_of(database, accepted.run_id).state == "succeeded"
    assert task_of(database, accepted.run_id, "x").parent_id == accepted.task_ids["a"]
    assert added == [task_of(database, accepted.run_id, name).id for name in "xy"]
    assert do(totals.read(database))["submitted:noop"] == 3


def test_a_repeated_attempt_adds_nothing_twice(database: Database) -> None:
    accepted, leases = running(database, graph("a", a={"retry": AGAIN}))
    children = [spec("x"), spec("y", "x")]
    first = do(tasks.spawn(database, leases["a"], children, actor="worker"))
    finish(database, (leases["a"], Failed("no")))
    again = claim_all(database, session(database))["a"]
    assert do(tasks.spawn(database, again, children, actor="worker")) == first
    assert run_of(database, accepted.run_id).total == 3


def test_a_name_that_the_run_has_is_refused_whole(database: Database) -> None:
    accepted, leases = running(database, "a, b")
    before = everything(database)
    for children in ([spec("new"), spec("b")], [spec("a")], [spec("x", "ghost")], [spec("x"), spec("x")]):
        with pytest.raises(GraphError):
            do(tasks.spawn(database, leases["a"], children, actor="worker"))
    assert everything(database) == before
    assert run_of(database, accepted.run_id).total == 2


def test_the_longest_sleep_of_a_function_can_be_stored(database: Database) -> None:
    _, leases = running(database, "a")
    left = do(steps.until(database, leases["a"], "sleep:long", MAX_SECONDS))
    assert MAX_SECONDS - 600 < left <= MAX_SECONDS


# --- one task from outside


def test_cancelling_a_task_that_has_not_started_skips_what_needs_it(database: Database) -> None:
    accepted = submit(database, "a -> b -> c; d")
    assert do(tasks.cancel(database, accepted.task_ids["a"], reason="not wanted")).state == "cancelled"
    assert states(database, accepted.run_id) == {
        "a": "cancelled",
        "b": "skipped",
        "c": "skipped",
        "d": "available",
    }
    reasons = [task_of(database, accepted.run_id, name).reason for name in "abc"]
    assert reasons == ["not wanted", "dependency a cancelled", "dependency b skipped"]


def test_cancelling_a_running_task_tells_its_worker(database: Database) -> None:
    accepted, leases = running(database, "a -> b")
    assert do(tasks.cancel(database, accepted.task_ids["a"])).state == "running"
    orders = do(workers.orders(database, leases["a"].session_id))
    assert list(orders.values()) == [(leases["a"].token, "context canceled")]
    assert finish(database, (leases["a"], Cancelled())) == []
    assert states(database, accepted.run_id) == {"a": "cancelled", "b": "skipped"}


def test_cancelling_what_is_over(database: Database) -> None:
    accepted, leases = running(database, "a")
    finish(database, (leases["a"], Succeeded()))
    with pytest.raises(Conflict, match="is succeeded"):
        do(tasks.cancel(database, accepted.task_ids["a"]))
    with pytest.raises(NotFound):
        do(tasks.cancel(database, 10**12))


# --- names of contracts


def test_a_resubmitted_name_means_the_new_task_and_the_old_one_goes_on(database: Database) -> None:
    first = submit(database, "a -> b", contract="c")
    leases = claim_all(database, session(database))
    second = submit(database, "a", contract="c")
    assert do(tasks.get_aliased(database, "c", "a")).id == second.task_ids["a"]
    assert do(tasks.get_aliased(database, "c", "b")).id == first.task_ids["b"]
    finish(database, (leases["a"], Succeeded("late")))
    assert do(tasks.get_aliased(database, "c", "a")).state == "available"
    assert states(database, first.run_id) == {"a": "succeeded", "b": "available"}
    assert [task.id for task in do(tasks.list_aliased(database, "c"))] == [
        first.task_ids["b"],
        second.task_ids["a"],
    ]


@pytest.mark.parametrize(("claimed", "then"), [(False, "cancelled"), (True, "running")])
def test_a_forgotten_name(database: Database, claimed: bool, then: str) -> None:
    accepted = submit(database, "a -> b", contract="c")
    leases = claim_all(database, session(database)) if claimed else {}
    do(tasks.forget_alias(database, "c", "a"))
    for call in (tasks.get_aliased, tasks.forget_alias):
        with pytest.raises(NotFound):
            do(call(database, "c", "a"))
    assert states(database, accepted.run_id) == {"a": then, "b": "blocked" if claimed else "skipped"}
    if claimed:
        finish(database, (leases["a"], Succeeded()))
        assert states(database, accepted.run_id)["b"] == "available"


# --- reasons


def test_reasons_name_the_dependency(database: Database) -> None:
    accepted = submit(
        database,
        Graph(
            (
                spec("ok"),
                spec("bad"),
                spec("needs_both", "ok", "bad"),
                spec("below", "needs_both"),
                spec("other_branch", Dependency("ok", "left")),
                spec("watch", "ok", rule=Rule.ONE_FAILED),
            )
        ),
    )
    leases = claim_all(database, session(database))
    finish(database, (leases["ok"], Succeeded(branch="right")), (leases["bad"], Failed("no")))
    reasons = {task.name: task.reason for task in do(runs.tasks(database, accepted.run_id))}
    assert reasons == {
        "ok": None,
        "bad": "no",
        "needs_both": "dependency bad failed",
        "below": "dependency needs_both skipped",
        "other_branch": "dependency ok took another branch",
        "watch": "no dependency failed",
    }
    assert events(database, accepted.run_id)[-1].kind == "run.failed"
