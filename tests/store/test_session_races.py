"""Sessions that end while others look, beat or finish: the first ending counts."""

from __future__ import annotations

from itertools import permutations

from engine.model.outcomes import Succeeded
from engine.operations import runs, tasks, workers
from engine.store.database import Database
from tests.factories import (
    claim,
    do,
    finish,
    run_of,
    running,
    session,
    states,
    submit,
    task_of,
    write,
)
from tests.store.meeting import Meeting, claiming

STEPS = ("finish", "expire", "clear", "sign off")


def test_a_stale_sweep_changes_nothing_in_any_order(database: Database) -> None:
    """What a sweeper saw before may be over when it acts: only the first ending counts."""
    outcome = {"finish": "succeeded", "expire": "crashed", "clear": "crashed", "sign off": "released"}
    for order in permutations(STEPS, 3):
        accepted, leases = running(database, "a -> b")
        [seen] = [one for one in do(workers.live(database)) if one.id == leases["a"].session_id]
        for step in order:
            match step:
                case "finish":
                    finish(database, (leases["a"], Succeeded()))
                case "expire":
                    do(workers.expire(database, seen, 0))
                case "clear":
                    do(workers.clear(database, seen, 0))
                case _:
                    do(workers.end(database, seen.id, "stopped"))
        found = [attempt.outcome for attempt in do(tasks.attempts(database, leases["a"].task_id))]
        assert found == [outcome[order[0]]], order
        won = order[0] == "finish"
        expected = {"a": "succeeded", "b": "available"} if won else {"a": "available", "b": "blocked"}
        assert states(database, accepted.run_id) == expected, order
        write(database, "UPDATE task_state SET queue = 'out of the way'")


def test_of_two_expirers_one_takes_the_tasks(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, _ = running(database, "a")
    [seen] = do(workers.live(database))
    expiring = [lambda one: do(workers.expire(one, seen, 0))] * 2
    with meeting.stopped(expiring[0]) as first:
        second = meeting.start(expiring[1])
        meeting.wait_until_blocked()
    assert (first.result(), second.result()) == (1, None)
    assert task_of(database, accepted.run_id, "a").crashes == 1


def test_a_beat_saves_the_session(database: Database) -> None:
    accepted, leases = running(database, "a")
    [seen] = do(workers.live(database))
    write(database, "UPDATE worker_session SET beat = beat + 1 WHERE ended_at IS NULL")
    assert do(workers.expire(database, seen, 0)) is None
    assert finish(database, (leases["a"], Succeeded())) == []
    assert run_of(database, accepted.run_id).state == "succeeded"


def test_a_beat_that_comes_first_makes_the_expirer_wait_and_give_up(meeting: Meeting) -> None:
    database = meeting.database()
    running(database, "a")
    [seen] = do(workers.live(database))

    with meeting.stopped(lambda one: write(one, "UPDATE worker_session SET beat = beat + 1")):
        expiring = meeting.start(lambda one: do(workers.expire(one, seen, 0)))
        meeting.wait_until_blocked()
    assert expiring.result() is None


def test_a_task_that_is_claimed_anew_is_not_taken_back_for_its_earlier_holder(database: Database) -> None:
    accepted, leases = running(database, "a")
    [seen] = do(workers.live(database))
    assert do(workers.expire(database, seen, 0)) == 1
    [again] = claim(database, session(database))
    assert do(workers.clear(database, seen, 0)) == 0
    assert finish(database, (leases["a"], Succeeded())) == [leases["a"]]
    assert finish(database, (again, Succeeded())) == []
    assert run_of(database, accepted.run_id).state == "succeeded"


def test_a_forgotten_session_does_not_strand_what_it_holds(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = submit(database, "a")
    dead = session(database)
    with meeting.stopped(claiming(dead)):
        do(workers.end(database, dead, "worker died"))
    do(runs.prune(database, finished_seconds=0))
    [holder] = do(workers.sessions_to_clear(database))
    assert do(workers.clear(database, holder, 0)) == 1
    assert states(database, accepted.run_id) == {"a": "available"}
