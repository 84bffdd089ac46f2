"""Claims that meet: each task is taken once, by a session that lives, and nobody waits for it."""

from __future__ import annotations

from collections import Counter
from functools import partial

from engine.model.outcomes import Succeeded
from engine.model.records import Lease
from engine.operations import runs, workers
from engine.store.database import Database
from tests.factories import (
    claim,
    do,
    events,
    finish,
    rows,
    run_of,
    session,
    states,
    submit,
)
from tests.store.meeting import Meeting, claiming, names

# --- claims


def test_a_claim_leaves_what_another_is_taking(meeting: Meeting) -> None:
    database = meeting.database()
    submit(database, "a; b")
    submit(database, "c")  # in a run of its own, or they would wait for each other's counts
    first, second = session(database), session(database)
    with meeting.stopped(claiming(first, 2)) as taking:
        assert names(meeting.start(claiming(second, 5)).result(20)) == ["c"]
    assert names(taking.result()) == ["a", "b"]


def test_eight_claimers_take_everything_exactly_once(meeting: Meeting) -> None:
    database = meeting.database()
    for _ in range(4):
        submit(database, ", ".join(f"t{i}" for i in range(100)))
    sessions = [session(database) for _ in range(8)]

    def claim_until_none(database: Database, session_id: int) -> list[Lease]:
        taken: list[Lease] = []
        misses = 0
        while misses < 3:
            leases = claim(database, session_id, 7)
            assert len(leases) <= 7
            taken += leases
            misses = 0 if leases else misses + 1
        return taken

    futures = [meeting.start(partial(claim_until_none, session_id=one)) for one in sessions]
    taken = Counter(lease.task_id for future in futures for lease in future.result())
    assert len(taken) == 400 and set(taken.values()) == {1}
    held = rows(database, "SELECT count(*) AS n FROM task_state WHERE state = 'running' AND attempt = 1")
    assert held[0].n == 400
    assert meeting.deadlocks == 0


def test_a_claim_by_a_session_that_has_ended_takes_nothing(database: Database) -> None:
    submit(database, "a")
    dead = session(database)
    do(workers.end(database, dead, "stopped"))
    assert claim(database, dead) == []


def test_a_claim_that_commits_after_its_session_was_ended_is_taken_back(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = submit(database, "a")
    dead, sweeper = session(database), session(database)
    with meeting.stopped(claiming(dead)) as late:
        assert do(workers.end(database, dead, "worker died")) == 0
        assert do(workers.sessions_to_clear(database)) == []
    [lease] = late.result()
    [holder] = do(workers.sessions_to_clear(database))
    assert holder.id == dead
    assert do(workers.clear(database, holder, sweeper)) == 1
    assert states(database, accepted.run_id) == {"a": "available"}
    assert finish(database, (lease, Succeeded())) == [lease]


# --- events


def test_a_tailing_reader_sees_every_event_in_order(meeting: Meeting) -> None:
    """Reading on from the last number, while many commit, skips nothing: numbers follow commits."""
    database = meeting.database()
    accepted = submit(database, ", ".join(f"t{i}" for i in range(120)))
    sessions = [session(database) for _ in range(6)]

    def work(one: Database, session_id: int) -> None:
        while leases := claim(one, session_id, 3):
            for lease in leases:
                finish(one, (lease, Succeeded()))

    def tail(one: Database) -> list[int]:
        seen: list[int] = []
        while True:
            is_over = run_of(one, accepted.run_id).state == "succeeded"
            after = seen[-1] if seen else 0
            seen += [event.number for event in do(runs.events(one, accepted.run_id, after=after, limit=7))]
            if is_over and seen[-1] == 1 + 1 + 240 + 1:
                return seen

    tailing = [meeting.start(tail) for _ in range(2)]
    for working in [meeting.start(partial(work, session_id=one)) for one in sessions]:
        working.result()
    for future in tailing:
        assert future.result(30) == list(range(1, 244))


def test_an_event_number_is_not_taken_before_the_one_below_is_committed(meeting: Meeting) -> None:
    database = meeting.database()
    accepted = submit(database, "a, b")
    with meeting.stopped(claiming(session(database), 1)):
        other = meeting.start(claiming(session(database), 1))
        meeting.wait_until_blocked()
        assert [event.number for event in events(database, accepted.run_id)] == [1]
    assert names(other.result()) == ["b"]
    assert [event.number for event in events(database, accepted.run_id)] == [1, 2, 3, 4]
