from __future__ import annotations

import pytest

from engine.errors import Overloaded
from engine.model.outcomes import Succeeded
from engine.operations import runs, totals, workers
from engine.store.database import Database
from tests.factories import claim, claim_all, do, finish, graph, run_of, running, session, states, submit


def test_a_session_that_signs_off_gives_back_what_it_holds(database: Database) -> None:
    accepted, leases = running(database, "a; b")
    holder = leases["a"].session_id
    finish(database, (leases["a"], Succeeded()))
    assert do(workers.end(database, holder, "stopped")) == 1
    assert do(workers.end(database, holder, "stopped")) == 0
    assert states(database, accepted.run_id) == {"a": "succeeded", "b": "available"}
    again = claim_all(database, session(database))["b"]
    assert (again.attempt, again.failures, again.crashes) == (2, 0, 0)


def test_sessions_are_listed_newest_first(database: Database) -> None:
    ids = [session(database, f"w{i}") for i in range(3)]
    do(workers.end(database, ids[1], "stopped"))
    assert [one.id for one in do(workers.list_sessions(database))] == ids[::-1]
    assert {one.id for one in do(workers.live(database))} == {ids[0], ids[2]}
    [ended] = [one for one in do(workers.list_sessions(database)) if one.ended_at]
    assert (ended.id, ended.end_reason, ended.name) == (ids[1], "stopped", "w1")


def test_the_only_process_takes_back_everything_at_its_start(database: Database) -> None:
    accepted = [submit(database, "a; b") for _ in range(3)]
    for _ in accepted:
        claim(database, session(database), 2)
    assert do(workers.end_all(database, "worker lost")) == 6
    assert do(workers.live(database)) == []
    for one in accepted:
        assert set(states(database, one.run_id).values()) == {"available"}
        assert run_of(database, one.run_id).running == 0


def test_queues_are_known_from_their_first_task_on(database: Database) -> None:
    submit(database, graph("a; b", b={"queue": "gpu"}))
    submit(database, graph("c", c={"queue": "gpu"}))
    assert do(workers.queue_names(database)) == ["default", "gpu"]


def test_admission_refuses_before_anything_is_written(database: Database) -> None:
    submit(database, "a; b; c")
    admission = totals.Admission(database, max_open_tasks=5)
    do(admission.check(2))
    with pytest.raises(Overloaded):
        do(admission.check(1))
    do(totals.Admission(database, max_open_tasks=0).check(10**9))


def test_totals_follow_the_tasks(database: Database) -> None:
    accepted, leases = running(database, "a -> b; c")
    finish(database, (leases["a"], Succeeded()))
    do(runs.cancel(database, accepted.run_id))
    found = do(totals.read(database))
    assert {name: value for name, value in found.items() if value} == {
        "submitted:noop": 3,
        "started": 2,
        "running": 1,
        "open": 1,
        "succeeded": 1,
        "cancelled": 1,
    }
