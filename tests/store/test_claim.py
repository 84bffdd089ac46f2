"""Claims: who gets what, in which order, and never more than was asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from engine.model.graph import Graph
from engine.model.outcomes import Awaiting, Crashed, Failed, Succeeded
from engine.model.records import Lease
from engine.model.retry import RetryPolicy
from engine.operations import runs, tasks, totals, workers
from engine.store.claims import claim as claim_within
from engine.store.database import Database, Transaction
from tests.factories import (
    claim,
    claim_all,
    do,
    events,
    finish,
    graph,
    make_due,
    request,
    rows,
    run_of,
    running,
    session,
    spec,
    states,
    submit,
    task_of,
    write,
)


def order(database: Database, session_id: int, limit: int = 100) -> list[str]:
    return [lease.name for lease in claim(database, session_id, limit)]


def test_highest_priority_first_then_oldest(database: Database) -> None:
    submit(database, graph("a; b; c; d", b={"priority": 10}, d={"priority": -10}))
    submit(database, graph("e; f", f={"priority": 10}))
    assert order(database, session(database)) == ["b", "f", "a", "c", "e", "d"]


class Greedy(Transaction):
    """The database picks one row more than it is told, as with a sub-select that runs once per row."""

    def execute(self, statement: Any, parameters: Any = None) -> Any:
        if parameters and "at_most" in parameters:
            parameters["at_most"] += 1
        return super().execute(statement, parameters)


def test_no_more_than_the_limit(database: Database) -> None:
    submit(database, "a; b; c; d; e")
    one = session(database)
    assert [len(claim(database, one, limit)) for limit in (0, 2, 2, 2, 2)] == [0, 2, 2, 1, 0]


def test_more_rows_than_asked_for_are_refused_before_anything_commits(database: Database) -> None:
    submit(database, "a; b; c")

    asked = request(session(database), 2)
    with pytest.raises((AssertionError, sa.exc.DataError), match=r"3 claimed for|division by zero"):
        database.run_sync(lambda tx: claim_within(Greedy(tx.connection, tx.dialect, tx.pipeline), asked))
    assert {row.state for row in rows(database, "SELECT state FROM task_state")} == {"available"}


def test_only_the_kinds_and_the_queue_that_were_asked_for(database: Database) -> None:
    submit(database, graph("a; b; c", b={"kind": "shell"}, c={"queue": "gpu"}))
    one = session(database)
    assert [lease.name for lease in claim(database, one, kinds=("shell", "http"))] == ["b"]
    assert [lease.name for lease in claim(database, one, queue="gpu")] == ["c"]
    assert order(database, one) == ["a"]


@pytest.mark.parametrize("name", ["with space", 'quo"te', "back\\slash", "{curly},", "名前", "new\nline"])
def test_any_text_is_a_queue_and_a_kind(database: Database, name: str) -> None:
    submit(database, graph("a", a={"kind": name, "queue": name}))
    one = session(database)
    assert claim(database, one) == []
    assert [lease.kind for lease in claim(database, one, queue=name, kinds=("x", name))] == [name]


def test_not_before_its_time(database: Database) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    accepted = submit(database, graph("a; b; c", a={"available_at": soon}, b={"delay_ms": 3_600_000}))
    assert order(database, session(database)) == ["c"]
    waits = task_of(database, accepted.run_id, "b").available_at
    assert waits is not None and abs(waits - soon) < timedelta(minutes=1)
    assert task_of(database, accepted.run_id, "a").available_at == soon


def test_what_waits_for_a_later_time_holds_nothing_up_at_any_priority(database: Database) -> None:
    """Each priority is read up to now and then the next, with a bound or without."""
    soon = datetime.now(UTC) + timedelta(hours=1)
    later = [
        spec(f"later{n}", priority=priority, available_at=soon) for n, priority in enumerate((20, 10, 0, -7))
    ]
    ready = [spec(f"ready{priority}", priority=priority) for priority in (10, 0, -7, -9)]
    submit(database, Graph((*later, *ready)))
    one = session(database)
    first = do(tasks.claim(database, request(one, 1), actor="w"))
    assert [lease.name for lease in first] == ["ready10"]
    rest = do(tasks.claim(database, request(one, 2, after=first[-1].place), actor="w"))
    assert [lease.name for lease in rest] == ["ready0", "ready-7"]
    assert order(database, one) == ["ready-9"]
    assert order(database, one) == []


def test_a_delay_counts_from_the_release(database: Database) -> None:
    accepted, leases = running(database, graph("a -> b", b={"delay_ms": 3_600_000}))
    before = datetime.now(UTC)
    finish(database, (leases["a"], Succeeded()))
    task = task_of(database, accepted.run_id, "b")
    assert task.state == "available" and task.available_at is not None
    assert timedelta(minutes=59) < task.available_at - before < timedelta(minutes=61)
    assert order(database, session(database)) == []


def test_a_bounded_claim_starts_after_its_bound(database: Database) -> None:
    submit(database, graph("a; b; c; d", b={"priority": 10}))
    one = session(database)
    first = do(tasks.claim(database, request(one, 2), actor="w"))
    assert [lease.name for lease in first] == ["b", "a"]
    rest = do(tasks.claim(database, request(one, 9, after=first[-1].place), actor="w"))
    assert [lease.name for lease in rest] == ["c", "d"]
    nothing = do(tasks.claim(database, request(one, 9, after=rest[-1].place), actor="w"))
    assert nothing == []


def test_a_lease_holds_all_that_an_attempt_needs(database: Database) -> None:
    accepted = submit(
        database, graph("a", a={"params": {"x": [1, "é"]}, "timeout_ms": 5, "client": {"k": 1}})
    )
    one = session(database)
    asked = request(one)
    [lease] = do(tasks.claim(database, asked, actor="w"))
    assert (lease.run_id, lease.task_id) == (accepted.run_id, accepted.task_ids["a"])
    assert (lease.params, lease.timeout_ms, lease.client) == ({"x": [1, "é"]}, 5, {"k": 1})
    assert (lease.attempt, lease.token, lease.session_id) == (1, asked.token, one)
    assert [event.kind for event in events(database, accepted.run_id)] == [
        "run.submitted",
        "run.started",
        "started",
    ]


def test_a_claim_whose_answer_was_lost_is_adopted_by_its_token(database: Database) -> None:
    submit(database, "a; b; c")
    one, other = session(database), session(database)
    lost, next_one = request(one, 2), request(one, 1)
    leases = do(tasks.claim(database, lost, actor="w"))
    do(tasks.claim(database, next_one, actor="w"))
    assert do(tasks.adopt(database, one, lost.token)) == leases
    assert do(tasks.adopt(database, one, "never used")) == []
    assert do(tasks.adopt(database, other, lost.token)) == []
    finish(database, (leases[0], Succeeded()))
    assert do(tasks.adopt(database, one, lost.token)) == leases[1:]


def test_attempts_count_up_and_their_numbers_are_never_used_again(database: Database) -> None:
    accepted = submit(database, "a")
    for attempt in (1, 2):
        one = session(database)
        [lease] = claim(database, one)
        assert lease.attempt == attempt
        [seen] = [s for s in do(workers.live(database)) if s.id == one]
        assert do(workers.expire(database, seen, 0)) == 1
        make_due(database)  # what crashed twice waits a little
    [lease] = claim(database, session(database))
    assert lease.crashes == 2
    finish(database, (lease, Succeeded({"n": 3})))
    found = do(tasks.attempts(database, accepted.task_ids["a"]))
    assert [(one.number, one.outcome) for one in found] == [(1, "crashed"), (2, "crashed"), (3, "succeeded")]


def test_a_task_that_takes_its_workers_along_is_given_up(database: Database) -> None:
    accepted = submit(database, "a -> b")
    for _ in range(3):
        one = session(database)
        assert order(database, one) == ["a"]
        [seen] = [s for s in do(workers.live(database)) if s.id == one]
        do(workers.expire(database, seen, 0))
        make_due(database)
    assert states(database, accepted.run_id) == {"a": "failed", "b": "skipped"}
    last = task_of(database, accepted.run_id, "a").last
    assert last is not None and last.error is not None and last.error["code"] == "worker_lost"
    assert Crashed().reason in last.error["message"]


def test_leases_in_the_order_of_the_claim(database: Database) -> None:
    submit(database, graph("a; b; c", c={"priority": 10}))
    assert order(database, session(database)) == ["c", "a", "b"]


def test_times_are_utc_whatever_the_zone_of_the_session(database: Database) -> None:
    at = datetime(2100, 1, 1, 12, tzinfo=UTC)
    if database.dialect.locks_rows:
        [here] = rows(database, "SELECT current_database() AS name")
        write(database, f"ALTER DATABASE {here.name} SET timezone = 'Asia/Tokyo'")
        database.engine.dispose()
        [zone] = rows(database, "SELECT current_setting('timezone') AS zone")
        assert zone.zone == "Asia/Tokyo"
    accepted = submit(database, graph("a; b", a={"available_at": at}))
    assert task_of(database, accepted.run_id, "a").available_at == at
    [lease] = claim(database, session(database))
    finish(database, (lease, Succeeded()))
    [attempt] = do(tasks.attempts(database, lease.task_id))
    assert attempt.started_at.tzinfo is UTC
    assert abs(attempt.started_at - datetime.now(UTC)) < timedelta(minutes=1)


def test_a_retry_policy_of_a_newer_release_does_not_keep_a_task_from_being_run(database: Database) -> None:
    submit(database, graph("a", a={"retry": RetryPolicy(max_attempts=3)}))
    write(database, """UPDATE task SET retry = '{"max_attempts": 3, "moon_phase": "full"}'""")
    [lease] = claim(database, session(database))
    assert lease.retry == RetryPolicy(max_attempts=3)


# --- together with outcomes


def test_what_an_outcome_releases_is_claimed_with_it(database: Database) -> None:
    accepted, leases = running(database, "a -> b, c; x", limit=1)
    one = leases["a"].session_id
    woken: list[str] = []
    database.on_wake(woken.append)
    lost, claimed, below = do(
        tasks.finish_and_claim(database, [(leases["a"], Succeeded(1))], request(one, 2), actor="w")
    )
    assert below == (2 if database.dialect.writes_in_with else 0)  # not counted
    names = {lease.name for lease in claimed}
    assert lost == [] and "x" in names and names < {"x", "b", "c"}
    assert woken == ["default"]  # some are left for others
    woken.clear()
    ended = [(lease, Succeeded()) for lease in claimed]
    lost, claimed, below = do(tasks.finish_and_claim(database, ended, request(one, 2), actor="w"))
    assert below == 0
    assert {lease.name for lease in claimed} == {"b", "c"} - names and "default" not in woken
    numbers = [event.number for event in events(database, accepted.run_id)]
    assert numbers == list(range(1, len(numbers) + 1))


def end(database: Database, lease: Lease, session_id: int) -> tuple[list[Lease], list[Lease]]:
    return do(tasks.finish_and_claim(database, [(lease, Succeeded())], request(session_id), actor="w"))[:2]


def test_what_is_released_into_the_hands_of_its_finisher_says_so(database: Database) -> None:
    accepted, leases = running(database, "a -> b -> c")
    one = leases["a"].session_id
    _, [b] = end(database, leases["a"], one)
    assert (b.name, b.attempt, b.session_id, b.rank) == ("b", 1, one, 0)
    assert b == do(tasks.adopt(database, one, b.token))[0]
    told = [(e.kind, e.task_id) for e in events(database, accepted.run_id)][-3:]
    ids = accepted.task_ids
    assert told == [("succeeded", ids["a"]), ("unblocked", ids["b"]), ("started", ids["b"])]
    run = run_of(database, accepted.run_id)
    assert (run.running, run.succeeded) == (1, 1)
    assert do(totals.read(database))["running"] == 1


@pytest.mark.parametrize(
    "given",
    [{"queue": "other"}, {"kind": "shell"}, {"delay_ms": 60_000}],
    ids=["another queue", "another kind", "a delay"],
)
def test_what_the_finisher_did_not_ask_for_is_left_to_others(
    database: Database, given: dict[str, Any]
) -> None:
    accepted, leases = running(database, graph("a -> b", b=given))
    assert end(database, leases["a"], leases["a"].session_id) == ([], [])
    assert states(database, accepted.run_id)["b"] == "available"


def test_a_session_that_has_ended_is_handed_nothing(database: Database) -> None:
    accepted, leases = running(database, "a -> b")
    dead = session(database)
    do(workers.end(database, dead, "worker lost"))
    assert end(database, leases["a"], dead) == ([], [])
    assert states(database, accepted.run_id)["b"] == "available"


def test_what_is_released_in_a_paused_run_is_held(database: Database) -> None:
    accepted, leases = running(database, "a -> b")
    do(runs.hold(database, accepted.run_id))
    assert end(database, leases["a"], leases["a"].session_id) == ([], [])
    assert states(database, accepted.run_id)["b"] == "held"


def test_a_sub_task_s_end_is_counted_though_its_task_is_claimed_with_it(database: Database) -> None:
    """The task failed once, and is made again while its sub-task runs: both write its row."""
    accepted, leases = running(database, graph("one", one={"retry": RetryPolicy(max_attempts=2)}))
    do(tasks.spawn(database, leases["one"], [spec("part")], actor="w", awaited=True))
    worker = session(database)
    part = claim_all(database, worker)["part"]
    finish(database, (leases["one"], Failed("once")))
    make_due(database)
    lost, [again] = end(database, part, worker)
    assert (lost, again.name, again.attempt) == ([], "one", 2)
    assert task_of(database, accepted.run_id, "one").waiting_on == 0
    finish(database, (again, Awaiting()))
    assert states(database, accepted.run_id)["one"] == "available"  # there is nothing to wait for


def test_nothing_is_claimed_with_an_outcome_that_comes_too_late(database: Database) -> None:
    """Of the outcome nothing is written; the claim beside it takes what is there all the same."""
    accepted, leases = running(database, "a -> b")
    do(workers.end(database, leases["a"].session_id, "worker lost"))
    one = session(database)
    write(database, "UPDATE task_state SET available_at = '2020-01-01' WHERE state = 'available'")
    ended = [(leases["a"], Succeeded())]
    lost, claimed, _ = do(tasks.finish_and_claim(database, ended, request(one), actor="w"))
    assert lost == [leases["a"]] and [lease.attempt for lease in claimed] == [2]
    assert states(database, accepted.run_id) == {"a": "running", "b": "blocked"}
