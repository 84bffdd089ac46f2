"""Two transactions meet, in every order that matters: the second waits, or leaves what the first has."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import wait
from functools import partial
from itertools import permutations
from typing import Any

import pytest

from engine.errors import Conflict, GraphError, NotFound
from engine.model.graph import Dependency, Graph, Rule
from engine.model.outcomes import Failed, Outcome, Released, Succeeded
from engine.model.records import Lease
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import runs, tasks, workers
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
    write,
)
from tests.store.meeting import Meeting

AGAIN = RetryPolicy(max_attempts=3, backoff=Backoff.FIXED, initial_ms=0, jitter=0)


def finishing(*ended: tuple[Lease, Outcome]) -> Any:
    return lambda database: finish(database, *ended)


def holding(run_id: int) -> Any:
    return lambda database: do(runs.hold(database, run_id))


def cancelling(run_id: int) -> Any:
    return lambda database: do(runs.cancel(database, run_id))


def claiming(session_id: int, limit: int = 100) -> Any:
    return lambda database: claim(database, session_id, limit)


def names(leases: list[Lease]) -> list[str]:
    return [lease.name for lease in leases]


# --- fan-in


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


@pytest.mark.parametrize("before", ["UPDATE task_state", "INSERT INTO attempt", "UPDATE run"])
def test_two_finishers_meet_at_every_statement(meeting: Meeting, before: str) -> None:
    database = meeting.database()
    accepted, leases = running(database, "a, b -> c, d")
    with meeting.stopped(finishing((leases["a"], Succeeded())), before):
        second = meeting.start(finishing((leases["b"], Succeeded())))
        meeting.wait_until_blocked()
    assert second.result() == []
    assert [states(database, accepted.run_id)[name] for name in "cd"] == ["available"] * 2
    assert {row.waiting_on for row in rows(database, "SELECT waiting_on FROM task_state")} == {0}


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


def test_parents_and_children_are_locked_in_id_order_before_anything_is_written(meeting: Meeting) -> None:
    database = meeting.database()
    below = [spec(f"c{i}", "p0", "p1") for i in range(3)]
    accepted, leases = running(database, Graph((below[2], spec("p1"), below[0], spec("p0"), below[1])))
    ids = list(accepted.task_ids.values())
    assert ids == sorted(ids)
    for number in (0, 2, 4):
        with meeting.holding(f"task_state WHERE task_id = {ids[number]}"):
            finishing_both = meeting.start(finishing((leases["p0"], Released()), (leases["p1"], Released())))
            meeting.wait_until_blocked()
            assert meeting.unlocked("task_id", "task_state") == ids[number + 1 :]
        assert finishing_both.result() == []
        leases = claim_all(database, session(database))


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


# --- claims


def test_a_claim_leaves_what_another_is_taking(meeting: Meeting) -> None:
    database = meeting.database()
    submit(database, "a; b; c")
    first, second = session(database), session(database)
    with meeting.stopped(claiming(first, 2), r"FROM run\b") as taking:
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
    assert do(workers.orders(database, one)) == {lease.task_id: (lease.token, True)}


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


# --- sweeps


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


# --- submits


def test_one_run_for_one_key_however_many_submit_at_once(meeting: Meeting) -> None:
    same = runs.Key("scope", "key", "body")

    def send(database: Database, key: runs.Key = same) -> runs.Accepted:
        return submit(database, "a -> b", contract="c", key=key)

    accepted = [future.result() for future in [meeting.start(send) for _ in range(16)]]
    assert len({one.run_id for one in accepted}) == 1
    assert [one.is_repeat for one in accepted].count(False) == 1
    database = meeting.database()
    assert [row.n for row in rows(database, "SELECT count(*) AS n FROM run")] == [1]
    assert [row.n for row in rows(database, "SELECT count(*) AS n FROM task")] == [2]
    assert meeting.deadlocks == 0
    with pytest.raises(Conflict, match="different request"):
        send(database, runs.Key("scope", "key", "another body"))


def test_the_second_of_two_submits_with_one_key_waits_and_repeats(meeting: Meeting) -> None:
    def send(database: Database) -> runs.Accepted:
        return submit(database, "a", key=runs.Key("scope", "key", "body"))

    with meeting.stopped(send) as first:
        second = meeting.start(send)
        meeting.wait_until_blocked()
    assert second.result().run_id == first.result().run_id
    assert second.result().is_repeat and second.result().task_ids == first.result().task_ids


def test_submits_of_the_same_names_in_opposite_orders_do_not_dead_lock(meeting: Meeting) -> None:
    some = [f"n{i}" for i in range(50)]

    def send(database: Database, order: list[str]) -> runs.Accepted:
        return submit(database, Graph(tuple(spec(name) for name in order)), contract="c")

    futures = [meeting.start(partial(send, order=some[::step])) for step in [1, -1] * 8]
    accepted = [future.result() for future in futures]
    assert meeting.deadlocks == 0
    database = meeting.database()
    meant = {row.task_id for row in rows(database, "SELECT task_id FROM alias")}
    assert meant in [set(one.task_ids.values()) for one in accepted]


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
    database = meeting.database()
    submit(database, "a", contract="c")

    def same_shard(call: Any) -> Any:
        def run(one: Database) -> Any:
            one._shard = lambda: 0  # type: ignore[method-assign]
            return call(one)

        return run

    sending = same_shard(lambda one: submit(one, "a", contract="c"))
    with meeting.stopped(sending, "INSERT INTO counter"):
        deleting = meeting.start(same_shard(lambda one: do(tasks.forget_alias(one, "c", "a"))))
        meeting.wait_until_blocked()
    deleting.result()
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
    for future in [meeting.start(partial(work, session_id=one)) for one in sessions]:
        future.result()
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
