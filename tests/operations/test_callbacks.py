"""Callbacks: once for each task that has settled, as tasks of their own, in declared order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.records import Task
from engine.model.workflows import Callback, Workflow, WorkflowTask
from engine.operations import executions, functions, relays, runs, workflows
from engine.store.database import Database
from tests.factories import claim, do, finish, session

CALLED = ("note", "page", "late", "check")
EACH = [
    Callback("success", "note"),
    Callback("failed", "page"),
    Callback("timeout", "late"),
    Callback("success", "check"),
]


def started(database: Database, **fields: Any) -> int:
    described = [{"name": n, "description": "", "origin": "tests", "params": None} for n in ("f", *CALLED)]
    do(functions.register(database, described))
    task = WorkflowTask("only", function="f", params={"day": 1}, callbacks=EACH, **fields)
    do(workflows.save(database, [Workflow("flow", tasks=[task])]))
    return do(executions.execute(database, "flow")).run_id


def work(database: Database, *outcomes: Outcome) -> None:
    worker = session(database)
    for outcome in outcomes:
        [lease] = claim(database, worker, kinds=("function",))
        finish(database, (lease, outcome))


def called(database: Database) -> list[Task]:
    """Calls of all runs, first to last."""
    found = [run for run in do(runs.list_runs(database)) if "callback_of" in run.labels]
    return [task for run in reversed(found) for task in do(runs.tasks(database, run.id))]


def test_a_success_calls_its_functions_in_order(database: Database) -> None:
    run_id = started(database)
    work(database, Succeeded({"rows": 3}))
    assert do(relays.tick(database)) == 2
    first, second = called(database)
    assert [task.params["function"] for task in (first, second)] == ["note", "check"]
    assert (first.depends_on, second.depends_on, second.rule) == ((), ("note 1",), "all_done")
    told = first.params["params"]
    assert told.pop("_workflow_id").startswith("wf-")
    assert told.pop("_task_id").isdigit()
    assert told == {
        "day": 1,
        "_task_name": "only",
        "_status": "SUCCESS",
        "_previous_status": "RUNNING",
        "_workflow_instance_id": str(run_id),
        "result": {"rows": 3},
        "_result_data": {"rows": 3},
    }


def test_a_failure_is_told_once_after_the_last_attempt(database: Database) -> None:
    started(database, retry_count=1, retry_interval_ms=0)
    work(database, Failed("first"))
    assert do(relays.tick(database)) == 0
    work(database, Failed("second"))
    assert do(relays.tick(database)) == 1
    [task] = called(database)
    told = task.params["params"]
    assert (task.params["function"], told["_status"], told["error"]) == ("page", "FAILED", "second")


def test_a_timeout_calls_what_was_named_for_it(database: Database) -> None:
    started(database)
    work(database, Failed("took too long", code="timeout"))
    do(relays.tick(database))
    assert [task.params["function"] for task in called(database)] == ["late"]


def test_nothing_is_told_twice(database: Database) -> None:
    started(database)
    work(database, Succeeded())
    assert do(relays.tick(database)) == 2
    assert do(relays.tick(database)) == 0
    assert len(called(database)) == 2


def test_processes_that_look_at_the_same_time_tell_once(row_locking: Database) -> None:
    started(row_locking)
    work(row_locking, Succeeded())
    with ThreadPoolExecutor(6) as pool:
        made = sum(pool.map(lambda _: do(relays.tick(row_locking)), range(12)))
    assert made == len(called(row_locking)) == 2


def test_a_callback_cannot_change_what_became_of_the_run(database: Database) -> None:
    run_id = started(database)
    work(database, Succeeded())
    do(relays.tick(database))
    work(database, Failed("callback is broken"))
    assert do(runs.get(database, run_id)).state == "succeeded"


def test_runs_without_callbacks_cost_nothing(database: Database) -> None:
    do(workflows.save(database, [Workflow("plain", tasks=[WorkflowTask("a", kind="noop")])]))
    do(executions.execute(database, "plain"))
    assert do(relays.tick(database)) == 0
