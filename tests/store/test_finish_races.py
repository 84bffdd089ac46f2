"""Finishes that meet: children are released once, locks are taken in one order."""

from __future__ import annotations

import random

from engine.model.graph import Dependency, Graph, Rule
from engine.model.outcomes import Awaiting, Released, Succeeded
from engine.operations import tasks
from tests.factories import (
    claim_all,
    do,
    events,
    rows,
    running,
    session,
    spec,
    states,
)
from tests.store.meeting import Meeting, finishing


def test_two_finishers_of_one_child_release_it_once(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a, b -> c")
    with meeting.stopped(finishing((leases["a"], Succeeded()))) as first:
        second = meeting.start(finishing((leases["b"], Succeeded())))
        meeting.wait_until_blocked()
        assert states(database, accepted.run_id)["c"] == "blocked"
    assert first.result() == second.result() == []
    assert states(database, accepted.run_id)["c"] == "available"
    assert [e.kind for e in events(database, accepted.run_id)].count("unblocked") == 1


def test_a_finish_holds_its_share_of_the_run_until_it_is_committed(meeting: Meeting) -> None:
    """The first of its statements is in the transaction as all others are."""
    database = meeting.database()
    _, leases = running(database, "a -> b")
    locks = "SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND granted"
    with meeting.stopped(finishing((leases["a"], Succeeded()))) as finished:
        assert [row.mode for row in rows(database, locks)] == ["ShareLock"]
    assert finished.result() == [] and rows(database, locks) == []


def test_what_successes_release_is_written_in_id_order(meeting: Meeting) -> None:
    database = meeting.database()
    parents, children = [f"p{i}" for i in range(12)], [f"c{i}" for i in range(12)]
    accepted, leases = running(database, f"{', '.join(parents)} -> {', '.join(children)}", limit=12)
    ids = sorted(accepted.task_ids[name] for name in children)
    for number, parent in enumerate(parents):
        with meeting.holding(f"task_state WHERE task_id = {ids[number]}"):
            ended = meeting.start(finishing((leases[parent], Succeeded())))
            meeting.wait_until_blocked()
            below = f"task_state WHERE task_id = ANY(ARRAY{ids})"
            assert set(meeting.unlocked("task_id", below)) == set(ids[number + 1 :])
        assert ended.result() == []
    assert {states(database, accepted.run_id)[name] for name in children} == {"available"}


def test_batches_over_shared_children_in_opposite_orders_do_not_dead_lock(meeting: Meeting) -> None:
    parents, children = [f"p{i}" for i in range(40)], [f"c{i}" for i in range(40)]
    database = meeting.database()
    accepted, leases = running(database, f"{', '.join(parents)} -> {', '.join(children)}")
    batches = [[leases[parents[(start + 8 * i) % 40]] for i in range(5)] for start in range(8)]
    batches = [batch if n % 2 else batch[::-1] for n, batch in enumerate(batches)]
    workers_of = [meeting.start(finishing(*((lease, Succeeded()) for lease in batch))) for batch in batches]
    repeated = [meeting.start(finishing(*((lease, Succeeded()) for lease in batch))) for batch in batches]
    assert [future.result() for future in workers_of + repeated] == [[]] * 16
    assert meeting.deadlocks == 0
    assert {states(database, accepted.run_id)[name] for name in children} == {"available"}
    assert {row.waiting_on for row in rows(database, "SELECT waiting_on FROM task_state")} == {0}


def test_parents_then_children_are_locked_in_id_order_before_anything_is_written(meeting: Meeting) -> None:
    database = meeting.database()
    below = [spec(f"c{i}", "p0", "p1") for i in range(3)]
    accepted, leases = running(database, Graph((below[2], spec("p1"), below[0], spec("p0"), below[1])))
    ids = [accepted.task_ids[name] for name in ("p1", "p0", "c2", "c0", "c1")]
    assert ids[:2] == sorted(ids[:2]) and ids[2:] == sorted(ids[2:])
    for number in range(5):
        with meeting.holding(f"task_state WHERE task_id = {ids[number]}"):
            finishing_both = meeting.start(finishing((leases["p0"], Released()), (leases["p1"], Released())))
            meeting.wait_until_blocked()
            assert set(meeting.unlocked("task_id", "task_state")) == set(ids[number + 1 :])
        assert finishing_both.result() == []
        leases = claim_all(database, session(database))


def test_a_task_whose_last_sub_task_ends_meanwhile_goes_on(meeting: Meeting) -> None:
    """The one looks whether there is something to wait for, the other whether somebody waits."""
    database = meeting.database()
    accepted, leases = running(database, "one")
    do(tasks.spawn(database, leases["one"], [spec("part")], actor="w", awaited=True))
    part = claim_all(database, session(database))["part"]
    with meeting.stopped(finishing((part, Succeeded()))) as ended:
        waiting = meeting.start(finishing((leases["one"], Awaiting())))
        meeting.wait_until_blocked()
    assert ended.result() == waiting.result() == []
    assert states(database, accepted.run_id) == {"one": "available", "part": "succeeded"}


def test_a_sub_task_that_ends_while_its_task_begins_to_wait_releases_it(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "one")
    do(tasks.spawn(database, leases["one"], [spec("part")], actor="w", awaited=True))
    part = claim_all(database, session(database))["part"]
    with meeting.stopped(finishing((leases["one"], Awaiting()))) as waiting:
        ended = meeting.start(finishing((part, Succeeded())))
        meeting.wait_until_blocked()
    assert ended.result() == waiting.result() == []
    assert states(database, accepted.run_id) == {"one": "available", "part": "succeeded"}


def test_tasks_that_begin_to_wait_are_locked_in_id_order(meeting: Meeting) -> None:
    """As those are that successes of their sub-tasks count off."""
    database = meeting.database()
    accepted, leases = running(database, "a, b")
    for name, lease in leases.items():
        do(tasks.spawn(database, lease, [spec(f"part of {name}")], actor="w", awaited=True))
    ids = accepted.task_ids
    with meeting.holding(f"task_state WHERE task_id = {ids['a']}"):
        both = meeting.start(finishing((leases["b"], Awaiting()), (leases["a"], Awaiting())))
        meeting.wait_until_blocked()
        assert ids["b"] in meeting.unlocked("task_id", "task_state")
    assert both.result() == []
    assert {states(database, accepted.run_id)[name] for name in leases} == {"blocked"}


def test_finishers_of_a_run_work_alone_where_a_success_can_skip(meeting: Meeting) -> None:
    database = meeting.database()
    watched = [spec("a"), spec("b"), spec("w", "a", rule=Rule.ONE_FAILED)]
    _, leases = running(database, Graph(tuple(watched)))
    with meeting.stopped(finishing((leases["a"], Succeeded())), "UPDATE task_state"):
        other = meeting.start(finishing((leases["b"], Succeeded())))
        meeting.wait_until_blocked()
    assert other.result() == []
    conditional = [spec("a"), spec("b"), spec("c", Dependency("a", "left"))]
    _, leases = running(database, Graph(tuple(conditional)))
    with meeting.stopped(finishing((leases["a"], Succeeded(branch="right"))), "UPDATE task_state"):
        other = meeting.start(finishing((leases["b"], Succeeded())))
        meeting.wait_until_blocked()
    assert other.result() == []


def test_successes_that_skip_what_lies_below_do_not_dead_lock(meeting: Meeting) -> None:
    """`one_failed` tasks are skipped by successes, which work side by side, and share what lies below."""
    database = meeting.database()
    roots = [spec(f"r{i}") for i in range(24)]
    watchers = [spec(f"w{i}", f"r{i}", rule=Rule.ONE_FAILED) for i in range(24)]
    chosen = random.Random(1)
    above = [chosen.sample([watcher.name for watcher in watchers], 10) for _ in range(200)]
    shared = [spec(f"s{i}", *names, rule=Rule.ALL_DONE) for i, names in enumerate(above)]
    accepted, leases = running(database, Graph((*reversed(shared), *watchers, *roots)))
    futures = [meeting.start(finishing((lease, Succeeded()))) for lease in leases.values()]
    assert [future.result() for future in futures] == [[]] * 24
    assert meeting.deadlocks == 0
    now = states(database, accepted.run_id)
    assert {now[watcher.name] for watcher in watchers} == {"skipped"}
    assert {now[one.name] for one in shared} == {"available"}
