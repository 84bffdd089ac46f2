"""Runs from pause to removal: what each operation may do in which state, and what it leaves behind."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from engine.errors import Conflict, NotFound
from engine.model.graph import Graph, Rule
from engine.model.outcomes import Cancelled, Crashed, Failed, Outcome, Released, Succeeded
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import runs, submits, tasks, totals, workers
from engine.store import removal, statement
from engine.store.database import Database
from tests.factories import (
    claim,
    claim_all,
    counts,
    do,
    end_all,
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

# --- pause


def test_nothing_starts_between_pause_and_resume(database: Database) -> None:
    accepted, leases = running(database, "a -> b; c", limit=1)
    assert do(runs.hold(database, accepted.run_id)).state == "paused"
    assert do(runs.hold(database, accepted.run_id)).state == "paused"
    finish(database, (leases["a"], Succeeded()))
    assert states(database, accepted.run_id) == {"a": "succeeded", "b": "held", "c": "held"}
    assert claim(database, session(database)) == []
    assert do(runs.resume(database, accepted.run_id)).state == "running"
    end_all(database)
    assert run_of(database, accepted.run_id).state == "succeeded"
    assert {task.attempt for task in do(runs.tasks(database, accepted.run_id))} == {1}


def test_a_run_paused_before_its_start_is_pending_again(database: Database) -> None:
    accepted = submit(database, "a")
    do(runs.hold(database, accepted.run_id))
    assert do(runs.resume(database, accepted.run_id)).state == "pending"


def test_a_pause_keeps_delays(database: Database) -> None:
    accepted, leases = running(database, graph("a -> b", b={"delay_ms": 3_600_000}))
    do(runs.hold(database, accepted.run_id))
    finish(database, (leases["a"], Succeeded()))
    do(runs.resume(database, accepted.run_id))
    task = task_of(database, accepted.run_id, "b")
    assert task.state == "available" and task.available_at is not None
    assert task.available_at > datetime.now(UTC) + timedelta(minutes=50)


def test_a_failed_attempt_of_a_paused_run_is_held(database: Database) -> None:
    policy = RetryPolicy(2, backoff=Backoff.FIXED, initial_ms=3_600_000, max_ms=3_600_000)
    accepted, leases = running(database, graph("a", a={"retry": policy}))
    do(runs.hold(database, accepted.run_id))
    finish(database, (leases["a"], Failed("no")))
    assert states(database, accepted.run_id) == {"a": "held"}
    do(runs.resume(database, accepted.run_id))
    task = task_of(database, accepted.run_id, "a")
    assert task.available_at is not None and task.available_at > datetime.now(UTC) + timedelta(minutes=50)


def test_a_worker_lost_during_a_pause_loses_nothing(database: Database) -> None:
    accepted, _ = running(database, "a")
    do(runs.hold(database, accepted.run_id))
    [seen] = do(workers.live(database))
    assert do(workers.expire(database, seen, 0)) == 1
    assert states(database, accepted.run_id) == {"a": "held"}


# --- cancel


def test_cancel_ends_what_has_not_started_and_stops_what_runs(database: Database) -> None:
    accepted, leases = running(database, "a -> b; c", limit=1)
    run = do(runs.cancel(database, accepted.run_id, reason="enough"))
    assert (run.state, run.is_cancelling, run.cancelled) == ("running", True, 2)
    assert states(database, accepted.run_id) == {"a": "running", "b": "cancelled", "c": "cancelled"}
    assert task_of(database, accepted.run_id, "b").reason == "enough"
    finish(database, (leases["a"], Cancelled()))
    assert run_of(database, accepted.run_id).state == "cancelled"
    assert do(runs.cancel(database, accepted.run_id)).state == "cancelled"


@pytest.mark.parametrize("outcome", [Cancelled(), Released("drained"), Crashed(), Failed("stopped")])
def test_a_running_task_says_what_it_was_cancelled_for_however_it_ends(
    database: Database, outcome: Outcome
) -> None:
    accepted, leases = running(database, Graph((spec("a", retry=RetryPolicy(max_attempts=9)),)))
    do(runs.cancel(database, accepted.run_id, reason="enough"))
    finish(database, (leases["a"], outcome))
    task = task_of(database, accepted.run_id, "a")
    assert (task.state, task.reason) == ("cancelled", "enough")


def test_a_task_that_succeeds_in_spite_of_a_cancel_keeps_its_result(database: Database) -> None:
    accepted, leases = running(database, "a")
    do(runs.cancel(database, accepted.run_id, reason="enough"))
    assert task_of(database, accepted.run_id, "a").reason == "enough"
    finish(database, (leases["a"], Succeeded(1)))
    assert states(database, accepted.run_id) == {"a": "succeeded"}
    assert task_of(database, accepted.run_id, "a").reason is None
    assert run_of(database, accepted.run_id).state == "cancelled"
    # Nothing is left to do: the retry gives the run the verdict that its tasks deserve.
    assert do(runs.retry(database, accepted.run_id)).state == "succeeded"


def test_what_is_skipped_below_a_cancelled_task_says_so(database: Database) -> None:
    specs = (spec("a"), spec("b", "a"), spec("c", "b"), spec("d", "a", rule=Rule.ONE_FAILED))
    accepted = submit(database, Graph(specs))
    do(tasks.cancel(database, accepted.task_ids["a"], reason="enough"))
    reasons = {task.name: (task.state, task.reason) for task in do(runs.tasks(database, accepted.run_id))}
    assert reasons == {
        "a": ("cancelled", "enough"),
        "b": ("skipped", "dependency a cancelled"),
        "c": ("skipped", "dependency b skipped"),
        "d": ("skipped", "dependency a cancelled"),
    }


def test_what_is_skipped_below_a_task_that_was_stopped_says_so(database: Database) -> None:
    accepted, leases = running(database, "a -> b")
    do(tasks.cancel(database, accepted.task_ids["a"]))
    finish(database, (leases["a"], Cancelled()))
    assert task_of(database, accepted.run_id, "b").reason == "dependency a cancelled"


# --- many tasks


@pytest.fixture
def statements(database: Database) -> list[str]:
    """What the database is told, from now on."""
    told: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        told.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    return told


def test_large_runs_are_moved_in_several_statements(
    database: Database, statements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which come to the same, also where what is counted off one task is spread over them."""
    monkeypatch.setattr(statement, "CHUNK", 2)
    names = [f"{stage}{i}" for stage in "bc" for i in range(5)]
    accepted = submit(database, f"a -> {', '.join(names[:5])} -> {', '.join(names[5:])}; d, e, f")
    run_id = accepted.run_id

    def moves() -> int:
        found = sum("SET state='" in statement for statement in statements)
        statements.clear()
        return found

    do(runs.hold(database, run_id))
    assert moves() == 2  # of 4 tasks
    do(runs.resume(database, run_id))
    assert moves() == 2
    end_all(database, "a")
    assert moves() >= 5  # 10 skipped, whatever the rest took
    assert [states(database, run_id)[name] for name in names] == ["skipped"] * 10
    reasons = {task.name: task.reason for task in do(runs.tasks(database, run_id))}
    assert {reasons[name] for name in names[:5]} == {"dependency a failed"}
    assert {reasons[name] for name in names[5:]} == {"dependency b0 skipped"}
    statements.clear()
    do(runs.retry(database, run_id))
    assert moves() == 7  # one for what failed, five for what was skipped, one that makes it available
    waiting = {task.name: task.waiting_on for task in do(runs.tasks(database, run_id))}
    assert [waiting[name] for name in names] == [1] * 5 + [5] * 5
    do(runs.cancel(database, run_id))
    do(runs.retry(database, run_id))
    end_all(database)
    assert run_of(database, run_id).succeeded == 14


@pytest.mark.parametrize("rules", [[Rule.ONE_FAILED], [Rule.ONE_FAILED, Rule.ALL_SUCCESS]])
def test_a_chain_that_is_skipped_takes_no_statements_per_level(
    database: Database, statements: list[str], rules: list[Rule]
) -> None:
    depth = 100
    below = [spec(f"t{i}", f"t{i - 1}", rule=rules[(i - 1) % len(rules)]) for i in range(1, depth)]
    accepted, leases = running(database, Graph((spec("t0"), *below)))
    statements.clear()
    finish(database, (leases["t0"], Succeeded()))
    assert len(statements) < depth
    run = run_of(database, accepted.run_id)
    assert (run.state, run.succeeded, run.skipped) == ("succeeded", 1, depth - 1)
    assert task_of(database, accepted.run_id, "t1").reason == "no dependency failed"
    assert task_of(database, accepted.run_id, "t50").reason == "dependency t49 skipped"


@pytest.mark.parametrize("rules", [[Rule.NONE_FAILED], [Rule.NONE_FAILED, Rule.ALL_SUCCESS]])
def test_a_failure_counts_all_the_way_down(
    database: Database, statements: list[str], rules: list[Rule]
) -> None:
    depth = 100
    below = [spec(f"t{i}", f"t{i - 1}", rule=rules[(i - 1) % len(rules)]) for i in range(1, depth)]
    alarm = spec("alarm", f"t{depth - 1}", rule=Rule.ONE_FAILED)
    accepted, leases = running(database, Graph((spec("t0"), *below, alarm)))
    statements.clear()
    finish(database, (leases["t0"], Failed("no")))
    assert len(statements) < depth
    assert run_of(database, accepted.run_id).skipped == depth - 1
    assert task_of(database, accepted.run_id, "t50").reason == "dependency t49 skipped"
    assert task_of(database, accepted.run_id, "alarm").state == "available"


def test_what_was_left_out_for_another_reason_is_no_failure(database: Database) -> None:
    specs = (
        spec("a"),
        spec("left", "a", rule=Rule.ONE_FAILED),
        spec("below", "left"),
        spec("calm", "below", rule=Rule.NONE_FAILED),
        spec("alarm", "below", rule=Rule.ONE_FAILED),
    )
    accepted, leases = running(database, Graph(specs))
    finish(database, (leases["a"], Succeeded()))
    found = states(database, accepted.run_id)
    assert found | {"a": ""} == {
        "a": "",
        "left": "skipped",
        "below": "skipped",
        "calm": "available",
        "alarm": "skipped",
    }


# --- what a state forbids


STATES: dict[str, set[str]] = {  # run state → what is refused in it
    "pending": {"retry", "delete"},
    "running": {"retry", "delete"},
    "paused": {"retry", "delete"},
    "succeeded": {"hold", "resume", "cancel", "retry"},
    "failed": {"hold", "resume", "cancel"},
    "cancelled": {"hold", "resume"},
}


@pytest.mark.parametrize("state", STATES)
def test_every_verb_in_a_state(database: Database, state: str) -> None:
    for verb in ("hold", "resume", "cancel", "retry", "delete"):
        accepted = submit(database, "a; b")
        if state == "running":
            claim(database, session(database), 1)
        elif state == "paused":
            do(runs.hold(database, accepted.run_id))
        elif state == "cancelled":
            do(runs.cancel(database, accepted.run_id))
        elif state != "pending":
            end_all(database, *("a" if state == "failed" else ""))
        assert run_of(database, accepted.run_id).state == state
        operation: Any = getattr(runs, verb)
        if verb in STATES[state]:
            before = len(events(database, accepted.run_id))
            with pytest.raises(Conflict, match=state):
                do(operation(database, accepted.run_id))
            assert len(events(database, accepted.run_id)) == before
        else:
            do(operation(database, accepted.run_id))
        write(database, "UPDATE task_state SET queue = 'out of the way'")


def test_unknown_runs(database: Database) -> None:
    for verb in ("hold", "resume", "cancel", "retry", "delete", "get"):
        operation: Any = getattr(runs, verb)
        with pytest.raises(NotFound):
            do(operation(database, 10**12))


# --- removal


def fill(database: Database) -> int:
    accepted = submit(
        database, "a -> b", contract="c", key=submits.Key("s", f"{counts(database)['run']}", "h")
    )
    leases = claim_all(database, session(database))
    do(tasks.append_logs(database, [(leases["a"].holder, 1, datetime.now(UTC), "log", "text")]))
    do(tasks.report(database, leases["a"], {"n": 1}))
    finish(database, (leases["a"], Failed("no")))
    return accepted.run_id


def test_delete_removes_everything_of_the_run_and_nothing_else(database: Database) -> None:
    kept = fill(database)
    before = counts(database)
    run_id = fill(database)
    do(runs.delete(database, run_id))
    after = counts(database)
    assert after.pop("alias") == 0  # the names had moved to the second run
    before.pop("alias")
    assert after == before
    assert run_of(database, kept).state == "failed"
    assert {row.run_id for row in rows(database, "SELECT run_id FROM idempotency_key")} == {kept}
    with pytest.raises(NotFound):
        run_of(database, run_id)


def test_prune_removes_what_finished_long_ago(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_PRUNE_RUNS", 2)
    old = [fill(database) for _ in range(5)]
    recent, still_open = fill(database), submit(database, "x").run_id
    long_ago = datetime.now(UTC) - timedelta(days=40)
    stored = long_ago.replace(tzinfo=None).isoformat(" ", "microseconds")
    stored = f"{stored}+00" if database.dialect.locks_rows else stored
    ids = ", ".join(map(str, old))
    write(database, f"UPDATE run SET finished_at = '{stored}' WHERE id IN ({ids})")
    assert do(runs.prune(database, finished_seconds=30 * 86400)) == 5
    assert {row.id for row in rows(database, "SELECT id FROM run")} == {recent, still_open}
    assert do(runs.prune(database, finished_seconds=30 * 86400)) == 0
    [left] = rows(database, "SELECT count(*) AS n FROM task_state")
    assert left.n == 3


def test_totals_outlive_the_runs(database: Database) -> None:
    fill(database)
    before = do(totals.read(database))
    do(runs.prune(database, finished_seconds=0))
    assert do(totals.read(database)) == before
    assert (before["submitted:noop"], before["failed"], before["skipped"], before["open"]) == (2, 1, 1, 0)


# --- lists


def test_lists_are_read_on_from_the_last_one(database: Database) -> None:
    accepted = [submit(database, graph("a; b; c")) for _ in range(3)]
    ids = [one.run_id for one in accepted]
    newest = do(runs.list_runs(database, limit=2))
    assert [run.id for run in newest] == ids[:0:-1]
    assert [run.id for run in do(runs.list_runs(database, before=newest[-1].id))] == ids[:1]
    do(runs.cancel(database, ids[1]))
    assert [run.id for run in do(runs.list_runs(database, state="cancelled"))] == [ids[1]]
    first = do(runs.tasks(database, ids[0], limit=2))
    rest = do(runs.tasks(database, ids[0], after=first[-1].id))
    assert [task.name for task in first + rest] == ["a", "b", "c"]
    assert [event.number for event in do(runs.events(database, ids[1], after=2))] == [3, 4, 5, 6]


@pytest.mark.parametrize(("max_tasks", "picked"), [(1, 1), (5, 1), (6, 2), (100, 3)])
def test_one_transaction_prunes_a_bounded_number_of_tasks(
    database: Database, max_tasks: int, picked: int
) -> None:
    accepted = [submit(database, "a; b; c") for _ in range(3)]
    end_all(database)
    write(database, "UPDATE run SET finished_at = '2020-01-01'")
    found = database.run_sync(lambda tx: removal.finished_before(tx, 60.0, 50, max_tasks))
    assert len(found) == picked and set(found) <= {one.run_id for one in accepted}
