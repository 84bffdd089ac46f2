"""Databases that an older release filled: all goes on after the upgrade, and what is new works on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import sqlalchemy as sa
from alembic import command

from engine.model.graph import EVERY_TASK, Graph, Limit
from engine.model.outcomes import Awaiting, Succeeded
from engine.operations import limits, runs, tasks, workers
from engine.store import migrate, relays
from engine.store.database import Database
from tests.crash import invariants
from tests.factories import (
    claim_all,
    do,
    end_all,
    events,
    finish,
    make_due,
    rows,
    run_of,
    session,
    spec,
    states,
    submit,
    task_of,
)

_SESSION = 9
# Ids beyond those that the database itself will give next.
RUNNING, SUCCEEDED, PAUSED, FAILED, CANCELLED, PENDING = RUNS = range(1_001, 1_007)
_FINAL = ("succeeded", "failed", "skipped", "cancelled")
_ATTEMPTED = ("running", "succeeded", "failed")
_HISTORY = {
    "running": ["started"],
    "succeeded": ["started", "succeeded"],
    "failed": ["started", "failed"],
    "skipped": ["skipped"],
    "cancelled": ["cancelled"],
    "held": ["held"],
}


def filled(database: Database, revision: str, fill: Callable[[sa.Connection], None]) -> None:
    """Upgrade to a revision, `fill` that, then upgrade to the newest."""
    config = migrate._config()
    with database.engine.connect() as connection, database.dialect.migration_lock(connection):
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        fill(connection)
        connection.commit()
    migrate.upgrade(database.engine, database.dialect)
    migrate.check(database.engine)


def write(connection: sa.Connection, table: str, values: Mapping[str, object]) -> None:
    """A row. "now" is the time of the database."""
    marks = ", ".join("CURRENT_TIMESTAMP" if value == "now" else f":{name}" for name, value in values.items())
    text = sa.text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})")
    connection.execute(text, {name: value for name, value in values.items() if value != "now"})


def write_run(connection: sa.Connection, run_id: int, state: str, *tasks: str) -> None:
    """A run whose tasks `t0 -> t1 -> …` are in these states, with all that the first release wrote of it."""
    happened: list[tuple[str, int | None]] = [("run.submitted", None)]
    for place, each in enumerate(tasks):
        task_id = run_id * 100 + place
        happened += [(kind, task_id) for kind in _HISTORY.get(each, ())]
        own = {"id": task_id, "run_id": run_id, "name": f"t{place}", "kind": "noop", "created_at": "now"}
        write(connection, "task", own)
        waits = int(place > 0 and tasks[place - 1] not in _FINAL)
        row = {"task_id": task_id, "run_id": run_id, "state": each, "queue": "default", "kind": "noop"}
        row |= {"rank": 0, "waiting_on": waits, "available_at": None if waits else "now", "changed_at": "now"}
        if each in _ATTEMPTED:
            row |= {"attempt": 1, "session_id": _SESSION, "token": f"fence {task_id}", "started_at": "now"}
        write(connection, "task_state", row)
        if place:
            write(connection, "edge", {"parent_id": task_id - 1, "child_id": task_id})
        if each in ("succeeded", "failed"):
            ended = {"task_id": task_id, "number": 1, "session_id": _SESSION, "outcome": each}
            ended |= {"started_at": "now", "finished_at": "now", "result": '{"ok": true}'}
            write(connection, "attempt", ended)
    for place, (kind, told_of) in enumerate(happened, 1):
        number = 1 if kind in ("started", "succeeded", "failed") else None
        told = {"run_id": run_id, "number": place, "kind": kind, "task_id": told_of, "attempt": number}
        write(connection, "event", {**told, "at": "now", "actor": "local"})
    row = {"id": run_id, "state": state, "labels": '{"k": "v"}', "actor": "local", "created_at": "now"}
    row |= {
        "started_at": "now" if any(each in _ATTEMPTED for each in tasks) else None,
        "finished_at": "now" if state in _FINAL else None,
    }
    tally = {each: tasks.count(each) for each in ("running", *_FINAL)}
    write(connection, "run", {**row, "event_count": len(happened), "total": len(tasks), **tally})


def write_all_states(connection: sa.Connection) -> None:
    one = {"id": _SESSION, "name": "w", "host": "h", "pid": 1, "version": "0.0.9", "concurrency": 1}
    write(connection, "worker_session", {**one, "started_at": "now"})
    write_run(connection, RUNNING, "running", "succeeded", "running", "blocked", "blocked")
    write_run(connection, SUCCEEDED, "succeeded", "succeeded")
    write_run(connection, PAUSED, "paused", "succeeded", "held", "blocked")
    write_run(connection, FAILED, "failed", "succeeded", "failed", "skipped")
    write_run(connection, CANCELLED, "cancelled", "succeeded", "cancelled", "cancelled")
    write_run(connection, PENDING, "pending", "available", "blocked")
    for name, value in (("open", 7), ("running", 1)):
        write(connection, "counter", {"name": name, "shard": 0, "value": value})


def test_a_database_filled_by_the_first_release_goes_on_after_the_upgrade(empty: Database) -> None:
    filled(empty, "0001", write_all_states)
    invariants.check(empty, "after the upgrade")
    found = {run.id: (str(run.state), run.labels) for run in do(runs.list_runs(empty))}
    words = ("running", "succeeded", "paused", "failed", "cancelled", "pending")
    assert found == {run_id: (word, {"k": "v"}) for run_id, word in zip(RUNS, words, strict=True)}

    do(workers.end(empty, _SESSION, "worker lost"))
    assert states(empty, RUNNING)["t1"] == "available"
    do(runs.resume(empty, PAUSED))
    do(runs.retry(empty, FAILED))
    do(runs.retry(empty, CANCELLED))
    make_due(empty)
    end_all(empty)
    for run_id in RUNS:
        run = run_of(empty, run_id)
        assert (run.state, run.succeeded) == ("succeeded", run.total), run_id
        assert [event.number for event in events(empty, run_id)] == list(range(1, run.events + 1))
    ended = task_of(empty, SUCCEEDED, "t0").last
    assert ended is not None and ended.result == {"ok": True}
    invariants.check(empty, "when all was done")


def test_what_is_new_works_on_an_upgraded_database(empty: Database) -> None:
    filled(empty, "0001", write_all_states)
    do(limits.put(empty, EVERY_TASK, 1))
    accepted = submit(empty, Graph((spec("a", limits=(Limit("few", 2),)), spec("b", "a"))))
    one = session(empty)
    make_due(empty)
    [old] = claim_all(empty, one).values()  # of run 6: what is limited is asked for by itself
    finish(empty, (old, Succeeded()))
    do(limits.lift(empty, EVERY_TASK))
    do(workers.end(empty, _SESSION, "worker lost"))
    make_due(empty)
    lease = claim_all(empty, one)["t1"]
    do(tasks.spawn(empty, lease, [spec("part")], actor="w", awaited=True))
    finish(empty, (lease, Awaiting()))
    assert states(empty, lease.run_id)[lease.name] == "blocked"
    end_all(empty)
    assert states(empty, lease.run_id)["part"] == "succeeded"
    assert states(empty, accepted.run_id) == {"a": "available", "b": "blocked"}
    invariants.check(empty, "after that")


def test_only_relays_with_something_to_tell_are_open_after_the_upgrade(empty: Database) -> None:
    """Callbacks were told by the second release; from the fourth on nobody looks at those that are over."""

    def fill(connection: sa.Connection) -> None:
        told = {1: 1, 2: 3, 3: 2, 4: 3}  # run → the last event that was dealt with
        write_run(connection, 1, "running", "running")
        write_run(connection, 2, "succeeded", "succeeded")
        write_run(connection, 3, "succeeded", "succeeded")
        write_run(connection, 4, "paused", "succeeded", "blocked")
        for run_id, number in told.items():
            row = {"run_id": run_id, "number": number, "workflow_id": "w", "callbacks": "{}"}
            write(connection, "relay", row)

    filled(empty, "0002", fill)
    found = rows(empty, "SELECT run_id FROM relay WHERE NOT is_over ORDER BY run_id")
    assert [row.run_id for row in found] == [1, 3, 4]
    assert empty.read_sync(lambda tx: relays.to_do(tx, 10)) == [1, 3]


@pytest.mark.parametrize("revision", ["0003", "0004"])
def test_runs_survive_an_upgrade_from_any_release(empty: Database, revision: str) -> None:
    filled(empty, revision, lambda connection: write_run(connection, 1, "running", "succeeded", "available"))
    end_all(empty)
    assert run_of(empty, 1).state == "succeeded"
