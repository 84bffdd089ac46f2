"""Retry of a run: what runs again, what stays, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from engine.model.graph import Dependency, Graph, Rule
from engine.model.outcomes import Failed, Succeeded
from engine.model.retry import Backoff, RetryPolicy
from engine.operations import runs, tasks
from engine.store.database import Database
from tests.factories import (
    claim,
    claim_all,
    do,
    end_all,
    events,
    finish,
    graph,
    make_due,
    run_of,
    running,
    session,
    spec,
    states,
    submit,
    task_of,
)


def test_a_retry_goes_on_where_it_failed(database: Database) -> None:
    accepted = submit(database, "a -> b -> c; a -> d")
    end_all(database, "b")
    assert states(database, accepted.run_id) == {
        "a": "succeeded",
        "b": "failed",
        "c": "skipped",
        "d": "succeeded",
    }
    assert do(runs.retry(database, accepted.run_id)).state == "running"
    assert states(database, accepted.run_id)["b"] == "available"
    end_all(database)
    run = run_of(database, accepted.run_id)
    assert (run.state, run.succeeded, run.failed, run.skipped) == ("succeeded", 4, 0, 0)
    assert task_of(database, accepted.run_id, "a").attempt == 1
    assert [one.outcome for one in do(tasks.attempts(database, accepted.task_ids["b"]))] == [
        "failed",
        "succeeded",
    ]
    kinds = [event.kind for event in events(database, accepted.run_id)]
    assert kinds.index("run.failed") < kinds.index("run.retried") < kinds.index("run.succeeded")


@pytest.mark.parametrize("rule", [Rule.ALL_DONE, Rule.ONE_FAILED, Rule.NONE_FAILED])
def test_what_ran_below_a_failure_does_not_break_the_retry(database: Database, rule: Rule) -> None:
    """The upstream ends a second time, and is counted off a task that is over already."""
    accepted = submit(database, Graph((spec("a"), spec("b"), spec("c", "a", "b", rule=rule))))
    end_all(database, "a")
    do(runs.retry(database, accepted.run_id))
    end_all(database)
    assert run_of(database, accepted.run_id).state == "succeeded"
    assert task_of(database, accepted.run_id, "c").waiting_on == 0


def test_a_task_without_upstreams_runs_again_whatever_its_rule(database: Database) -> None:
    accepted = submit(database, Graph((spec("a", rule=Rule.ONE_FAILED),)))
    end_all(database, "a")
    do(runs.retry(database, accepted.run_id))
    assert states(database, accepted.run_id) == {"a": "available"}


def test_a_branch_that_was_not_taken_stays_so(database: Database) -> None:
    specs = (
        spec("choose"),
        spec("left", Dependency("choose", "left")),
        spec("right", Dependency("choose", "right")),
        spec("below", "left"),
    )
    accepted = submit(database, Graph(specs))
    one = session(database)
    [lease] = claim(database, one)
    finish(database, (lease, Succeeded(branch="right")))
    [lease] = claim(database, one)
    assert lease.name == "right"
    finish(database, (lease, Failed("no")))
    do(runs.retry(database, accepted.run_id))
    assert states(database, accepted.run_id) == {
        "choose": "succeeded",
        "left": "skipped",
        "right": "available",
        "below": "skipped",
    }
    end_all(database)
    assert run_of(database, accepted.run_id).state == "succeeded"


def test_budgets_start_afresh_with_a_retry(database: Database) -> None:
    accepted = submit(database, "a")
    for _ in range(3):
        end_all(database, "a")
        task = task_of(database, accepted.run_id, "a")
        assert (task.state, task.failures) == ("failed", 1)
        do(runs.retry(database, accepted.run_id))
    assert task_of(database, accepted.run_id, "a").attempt == 3


@pytest.mark.parametrize("field", ["available_at", "delay_ms"])
def test_a_retry_keeps_the_time_of_what_has_not_started(database: Database, field: str) -> None:
    late: Any = datetime.now(UTC) + timedelta(hours=1) if field == "available_at" else 3_600_000
    accepted = submit(database, graph("a -> b", a={field: late}))
    due = task_of(database, accepted.run_id, "a").available_at
    assert due is not None and due > datetime.now(UTC) + timedelta(minutes=50)
    do(runs.cancel(database, accepted.run_id))
    do(runs.retry(database, accepted.run_id))
    assert task_of(database, accepted.run_id, "a").available_at == due
    assert claim(database, session(database)) == []


def test_a_retry_does_not_wait_for_what_has_run(database: Database) -> None:
    policy = RetryPolicy(3, backoff=Backoff.FIXED, initial_ms=3_600_000, max_ms=3_600_000)
    accepted = submit(database, graph("a; b", a={"delay_ms": 3_600_000}, b={"retry": policy}))
    make_due(database)
    leases = claim_all(database, session(database))
    finish(database, (leases["a"], Failed("no")), (leases["b"], Failed("not yet")))
    do(runs.cancel(database, accepted.run_id))
    do(runs.retry(database, accepted.run_id))
    assert set(claim_all(database, session(database))) == {"a", "b"}


def test_a_delay_counts_from_the_retry_that_releases_it(database: Database) -> None:
    accepted, leases = running(database, graph("a -> b", b={"delay_ms": 3_600_000}))
    do(runs.cancel(database, accepted.run_id))
    finish(database, (leases["a"], Succeeded()))
    do(runs.retry(database, accepted.run_id))
    task = task_of(database, accepted.run_id, "b")
    assert task.available_at is not None and task.available_at > datetime.now(UTC) + timedelta(minutes=50)
