"""Pause, cancel, retry and removal meeting whatever is under way."""

from __future__ import annotations

from concurrent.futures import wait
from typing import Any

import pytest

from engine.errors import Conflict, NotFound
from engine.model.outcomes import Failed, Outcome, Released, Succeeded
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import runs, tasks, workers
from engine.store.database import Database
from tests.factories import (
    claim,
    do,
    finish,
    graph,
    run_of,
    running,
    session,
    spec,
    states,
    submit,
)
from tests.store.meeting import Meeting, cancelling, claiming, finishing, holding, names

AGAIN = RetryPolicy(max_attempts=3, backoff=Backoff.FIXED, initial_ms=0, jitter=0)


# --- pause


def test_pause_waits_for_a_claim_under_way(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = submit(database, "a, b -> c")
    with meeting.stopped(claiming(session(database), 1)) as taking:
        pausing = meeting.start(holding(accepted.run_id))
        meeting.wait_until_blocked()
    assert names(taking.result()) == ["a"]
    assert pausing.result().state == "paused"
    assert states(database, accepted.run_id) == {"a": "running", "b": "held", "c": "blocked"}


def test_nothing_is_claimed_while_a_pause_commits(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = submit(database, "a, b")
    one = session(database)
    with meeting.stopped(holding(accepted.run_id)):
        assert claim(database, one) == []
    assert claim(database, one) == []
    assert set(states(database, accepted.run_id).values()) == {"held"}


def test_a_finisher_waits_for_a_pause_and_promotes_to_held(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a -> b")
    with meeting.stopped(holding(accepted.run_id)):
        ending = meeting.start(finishing((leases["a"], Succeeded())))
        meeting.wait_until_blocked()
    assert ending.result() == []
    assert states(database, accepted.run_id) == {"a": "succeeded", "b": "held"}
    assert claim(database, session(database)) == []


def test_a_pause_waits_for_a_finisher_and_holds_what_it_released(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a -> b")
    with meeting.stopped(finishing((leases["a"], Succeeded()))):
        pausing = meeting.start(holding(accepted.run_id))
        meeting.wait_until_blocked()
    assert pausing.result().state == "paused"
    assert states(database, accepted.run_id) == {"a": "succeeded", "b": "held"}


def test_finishers_of_a_run_share_it(meeting: Meeting) -> None:
    """Up to the run's row: before that they do not wait for each other."""
    database = meeting.database()
    _, leases = running(database, "a, b")
    with meeting.stopped(finishing((leases["a"], Succeeded())), "INSERT INTO attempt"):
        assert meeting.start(finishing((leases["b"], Succeeded()))).result(30) == []


def test_pauses_and_finishers_of_many_runs_do_not_dead_lock(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = [submit(database, "a -> b") for _ in range(6)]
    leases = claim(database, session(database))
    by_run = {lease.run_id: lease for lease in leases}
    futures: list[Any] = []
    for start in range(6):
        order = accepted[start:] + accepted[:start]
        futures.append(meeting.start(finishing(*((by_run[one.run_id], Succeeded()) for one in order))))
        futures.append(meeting.start(finishing(*((by_run[one.run_id], Failed("no")) for one in order[::-1]))))
        futures.append(meeting.start(holding(accepted[start].run_id)))
    wait(futures)
    assert meeting.deadlocks == 0
    for one in accepted:
        assert states(database, one.run_id)["b"] in ("held", "available", "skipped")
        assert run_of(database, one.run_id).state in ("paused", "running", "failed")


# --- cancel


def test_cancel_waits_for_a_claim_under_way_and_tells_it_to_stop(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = submit(database, "a, b -> c")
    one = session(database)
    with meeting.stopped(claiming(one, 1)) as taking:
        stopping = meeting.start(cancelling(accepted.run_id))
        meeting.wait_until_blocked()
    [lease] = taking.result()
    assert stopping.result().is_cancelling
    assert states(database, accepted.run_id) == {"a": "running", "b": "cancelled", "c": "cancelled"}
    assert do(workers.orders(database, one)) == {lease.task_id: (lease.token, "context canceled")}


def test_nothing_is_claimed_while_a_cancel_commits(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = submit(database, "a")
    with meeting.stopped(cancelling(accepted.run_id)):
        assert claim(database, session(database)) == []
    assert run_of(database, accepted.run_id).state == "cancelled"


@pytest.mark.parametrize("outcome", [Failed("no"), Released()])
def test_after_a_cancel_no_attempt_is_made_again(database: Database, outcome: Outcome) -> None:
    """The attempt ends by itself before its worker has heard of the cancel; its lease knows nothing of it."""
    accepted, leases = running(database, graph("a -> b", a={"retry": AGAIN}))
    do(runs.cancel(database, accepted.run_id))
    assert finish(database, (leases["a"], outcome)) == []
    assert states(database, accepted.run_id) == {"a": "cancelled", "b": "cancelled"}
    assert run_of(database, accepted.run_id).state == "cancelled"
    assert claim(database, session(database)) == []
    assert finish(database, (leases["a"], outcome)) == []  # said again after a lost answer


@pytest.mark.parametrize("way", ["sign off", "expire"])
def test_after_a_cancel_nothing_that_is_taken_back_starts_again(database: Database, way: str) -> None:
    accepted, leases = running(database, "a")
    do(runs.cancel(database, accepted.run_id))
    holder = leases["a"].session_id
    if way == "sign off":
        assert do(workers.end(database, holder, "stopped")) == 1
    else:
        [seen] = do(workers.live(database))
        assert do(workers.expire(database, seen, 0)) == 1
    assert states(database, accepted.run_id) == {"a": "cancelled"}
    assert run_of(database, accepted.run_id).state == "cancelled"


def test_a_finisher_that_waited_for_a_cancel_does_not_try_again(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, graph("a", a={"retry": AGAIN}))
    with meeting.stopped(cancelling(accepted.run_id)):
        ending = meeting.start(finishing((leases["a"], Failed("no"))))
        meeting.wait_until_blocked()
    assert ending.result() == []
    assert states(database, accepted.run_id) == {"a": "cancelled"}


def test_a_running_task_cannot_add_tasks_to_a_run_that_is_being_cancelled(database: Database) -> None:
    accepted, leases = running(database, "a")
    do(runs.cancel(database, accepted.run_id))
    with pytest.raises(Conflict, match="being cancelled"):
        do(tasks.spawn(database, leases["a"], [spec("new")], actor="worker"))
    assert states(database, accepted.run_id) == {"a": "running"}


# --- retry and removal


def test_a_retry_and_a_prune_do_not_dead_lock(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a")
    finish(database, (leases["a"], Failed("no")))
    with meeting.stopped(lambda one: do(runs.retry(one, accepted.run_id))):
        pruning = meeting.start(lambda one: do(runs.prune(one, finished_seconds=0)))
        meeting.wait_until_blocked()
    assert pruning.result() == 0
    assert states(database, accepted.run_id) == {"a": "available"}
    assert meeting.deadlocks == 0


def test_a_retry_that_waited_for_a_prune_finds_nothing(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a")
    finish(database, (leases["a"], Failed("no")))
    with meeting.stopped(lambda one: do(runs.prune(one, finished_seconds=0))):
        retrying = meeting.start(lambda one: do(runs.retry(one, accepted.run_id)))
        meeting.wait_until_blocked()
    with pytest.raises(NotFound):
        retrying.result()


def test_cancelling_a_task_whose_run_is_being_removed(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a")
    finish(database, (leases["a"], Succeeded()))
    with meeting.stopped(lambda one: do(runs.delete(one, accepted.run_id))):
        cancel = meeting.start(lambda one: do(tasks.cancel(one, accepted.task_ids["a"])))
        meeting.wait_until_blocked()
    with pytest.raises(NotFound):
        cancel.result()
