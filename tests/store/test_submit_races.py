"""Submits that meet, with their keys and names, and tasks that add tasks."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from engine.errors import Conflict, GraphError, NotFound
from engine.model.graph import Graph, Limit
from engine.model.outcomes import Succeeded
from engine.model.records import Lease
from engine.operations import limits, submits, tasks
from engine.store.database import Database
from tests.factories import (
    do,
    finish,
    rows,
    run_of,
    running,
    spec,
    states,
    submit,
)
from tests.store.meeting import Meeting, holding

# --- submits


def test_one_run_for_one_key_however_many_submit_at_once(meeting: Meeting) -> None:
    same = submits.Key("scope", "key", "body")

    def send(database: Database, key: submits.Key = same) -> submits.Accepted:
        return submit(database, "a -> b", contract="c", key=key)

    accepted = [future.result() for future in [meeting.start(send) for _ in range(16)]]
    assert len({one.run_id for one in accepted}) == 1
    assert [one.is_repeat for one in accepted].count(False) == 1
    database = meeting.database()
    assert [row.n for row in rows(database, "SELECT count(*) AS n FROM run")] == [1]
    assert [row.n for row in rows(database, "SELECT count(*) AS n FROM task")] == [2]
    assert meeting.deadlocks == 0
    with pytest.raises(Conflict, match="different request"):
        send(database, submits.Key("scope", "key", "another body"))


def test_the_second_of_two_submits_with_one_key_waits_and_repeats(meeting: Meeting) -> None:
    def send(database: Database) -> submits.Accepted:
        return submit(database, "a", key=submits.Key("scope", "key", "body"))

    with meeting.stopped(send) as first:
        second = meeting.start(send)
        meeting.wait_until_blocked()
    assert second.result().run_id == first.result().run_id
    assert second.result().is_repeat and second.result().task_ids == first.result().task_ids


def test_submits_of_the_same_names_in_opposite_orders_do_not_dead_lock(meeting: Meeting) -> None:
    some = [f"n{i}" for i in range(50)]

    def send(database: Database, order: list[str]) -> submits.Accepted:
        return submit(database, Graph(tuple(spec(name) for name in order)), contract="c")

    futures = [meeting.start(partial(send, order=some[::step])) for step in [1, -1] * 8]
    accepted = [future.result() for future in futures]
    assert meeting.deadlocks == 0
    database = meeting.database()
    meant = {row.task_id for row in rows(database, "SELECT task_id FROM alias")}
    assert meant in [set(one.task_ids.values()) for one in accepted]


def test_a_limit_that_an_operator_sets_meanwhile_stays(meeting: Meeting) -> None:
    """The submit has looked at the limit before, and writes it after the operator."""
    database = meeting.database()

    def send(database: Database, at_most: int) -> submits.Accepted:
        return submit(database, Graph((spec("a", limits=(Limit("few", at_most),)),)))

    send(database, 1)
    with meeting.stopped(partial(send, at_most=4), before="INSERT INTO concurrency_limit"):
        do(limits.put(database, "few", 2))
    assert [use.at_most for use in do(limits.list_limits(database))] == [2]


def test_names_are_locked_in_their_order(meeting: Meeting) -> None:
    database = meeting.database()
    submit(database, "a; b; c", contract="c")
    with meeting.holding("alias WHERE name = 'b'"):
        sending = meeting.start(lambda one: submit(one, "c; b; a", contract="c"))
        meeting.wait_until_blocked()
        assert meeting.unlocked("name", "alias") == ["c"]
    sending.result()


def test_a_delete_that_met_a_resubmission_means_the_new_task(meeting: Meeting) -> None:
    database = meeting.database()
    first = submit(database, "a", contract="c")
    with meeting.stopped(lambda one: do(tasks.forget_alias(one, "c", "a")), "pg_advisory") as deleting:
        second = submit(database, "a", contract="c")
    deleting.result()
    with pytest.raises(NotFound):
        do(tasks.get_aliased(database, "c", "a"))
    assert states(database, first.run_id) == {"a": "available"}
    assert states(database, second.run_id) == {"a": "cancelled"}


def test_a_delete_and_a_resubmission_do_not_dead_lock(meeting: Meeting) -> None:
    """One process, one counter row: counters come last, also after the names."""

    def same_shard(call: Any) -> Any:
        def run(one: Database) -> Any:
            one._shard = lambda: 0  # type: ignore[method-assign]
            return call(one)

        return run

    sending = same_shard(lambda one: submit(one, "a", contract="c"))
    sending(meeting.database())
    with meeting.holding("counter WHERE shard = 0"):
        sent = meeting.start(sending)
        meeting.wait_until_blocked()
        assert meeting.unlocked("name", "alias") == []
        deleted = meeting.start(same_shard(lambda one: do(tasks.forget_alias(one, "c", "a"))))
        meeting.wait_until_blocked(2)
    sent.result(), deleted.result()
    assert meeting.deadlocks == 0


# --- tasks that add tasks


def test_adding_tasks_and_finishing_do_not_dead_lock(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, ", ".join(f"t{i}" for i in range(16)))

    def add(one: Database, lease: Lease) -> list[int]:
        one._shard = lambda: 0  # type: ignore[method-assign]  # threads of one process can share a counter
        return do(tasks.spawn(one, lease, [spec(f"{lease.name}.new")], actor="worker"))

    def end(one: Database, lease: Lease) -> list[Lease]:
        one._shard = lambda: 0  # type: ignore[method-assign]
        return finish(one, (lease, Succeeded()))

    futures: list[Any] = []
    for index in range(0, 16, 2):
        futures.append(meeting.start(partial(add, lease=leases[f"t{index}"])))
        futures.append(meeting.start(partial(end, lease=leases[f"t{index + 1}"])))
    for future in futures:
        future.result()
    assert meeting.deadlocks == 0
    run = run_of(database, accepted.run_id)
    assert (run.total, run.succeeded, run.running) == (24, 8, 8)


def test_two_tasks_that_add_the_same_name_at_once_get_a_clear_answer(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a, b")

    def add(name: str) -> Any:
        return lambda one: do(tasks.spawn(one, leases[name], [spec("new")], actor="worker"))

    with meeting.stopped(add("a")) as first:
        second = meeting.start(add("b"))
        meeting.wait_until_blocked()
    assert len(first.result()) == 1
    with pytest.raises(GraphError, match='duplicate task id: "new"'):
        second.result()
    assert run_of(database, accepted.run_id).total == 3


def test_tasks_added_while_a_pause_commits_are_held(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a")
    with meeting.stopped(holding(accepted.run_id)):
        adding = meeting.start(
            lambda one: do(tasks.spawn(one, leases["a"], [spec("new"), spec("next", "new")], actor="worker"))
        )
        meeting.wait_until_blocked()
    assert len(adding.result()) == 2
    assert states(database, accepted.run_id) == {"a": "running", "new": "held", "next": "blocked"}


def test_a_pause_holds_what_is_being_added(meeting: Meeting) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a")
    with meeting.stopped(lambda one: do(tasks.spawn(one, leases["a"], [spec("new")], actor="worker"))):
        pausing = meeting.start(holding(accepted.run_id))
        meeting.wait_until_blocked()
    assert pausing.result().state == "paused"
    assert states(database, accepted.run_id) == {"a": "running", "new": "held"}
