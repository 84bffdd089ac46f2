"""Callbacks: once for each task that has settled, as tasks of their own, in declared order."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.errors import NotFound
from engine.model import callbacks
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
    assert do(relays.tick(database)).calls == 2
    first, second = called(database)
    assert [task.params["function"] for task in (first, second)] == ["note", "check"]
    assert (first.depends_on, second.depends_on, second.rule) == ((), ("note 1",), "all_done")
    told = first.params["offered"]
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


def test_functions_say_how_they_are_called(database: Database) -> None:
    started(database)
    options = {"timeout_ms": 7_000, "queue": "mail", "priority": 3, "retry": {"max_attempts": 2}}
    described = {"name": "note", "description": "", "origin": "tests", "params": None, "options": options}
    do(functions.register(database, [{**described, "options": {**options, "limits": {"smtp": 1}}}]))
    work(database, Succeeded())
    do(relays.tick(database))
    note, check = called(database)
    assert (note.timeout_ms, note.queue, note.priority, note.retry.max_attempts) == (7_000, "mail", 3, 2)
    assert (check.timeout_ms, check.queue, check.priority, check.retry.max_attempts) == (
        30_000,
        "default",
        0,
        1,
    )


def test_a_failure_is_told_once_after_the_last_attempt(database: Database) -> None:
    started(database, retry_count=1, retry_interval_ms=0)
    work(database, Failed("first"))
    assert do(relays.tick(database)).calls == 0
    work(database, Failed("second"))
    assert do(relays.tick(database)).calls == 1
    [task] = called(database)
    told = task.params["offered"]
    assert (task.params["function"], told["_status"], told["error"]) == ("page", "FAILED", "second")


def test_a_timeout_calls_what_was_named_for_it(database: Database) -> None:
    started(database)
    work(database, Failed("took too long", code="timeout"))
    do(relays.tick(database))
    assert [task.params["function"] for task in called(database)] == ["late"]


def test_nothing_is_told_twice(database: Database) -> None:
    started(database)
    work(database, Succeeded())
    assert do(relays.tick(database)).calls == 2
    assert do(relays.tick(database)).calls == 0
    assert len(called(database)) == 2


def test_processes_that_look_at_the_same_time_tell_once(row_locking: Database) -> None:
    started(row_locking)
    work(row_locking, Succeeded())
    with ThreadPoolExecutor(6) as pool:
        made = sum(pool.map(lambda _: do(relays.tick(row_locking)).calls, range(12)))
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
    assert do(relays.tick(database)).calls == 0


def test_a_run_that_is_deleted_is_told_of_before(database: Database) -> None:
    run_id = started(database)
    work(database, Succeeded("kept"))
    do(runs.delete(database, run_id))
    assert [task.params["offered"]["result"] for task in called(database)] == ["kept", "kept"]
    assert do(relays.tick(database)).calls == 0


def test_retention_leaves_runs_alone_that_somebody_is_still_to_be_told_of(database: Database) -> None:
    run_id = started(database)
    work(database, Succeeded())
    assert do(runs.prune(database, finished_seconds=0)) == 0
    do(relays.tick(database))
    assert do(runs.prune(database, finished_seconds=0)) == 1
    with pytest.raises(NotFound):
        do(runs.get(database, run_id))
    assert len(called(database)) == 2


def test_large_results_are_told_by_their_size(database: Database) -> None:
    """Twice a result for each call: pages of them once were more than a statement may hold."""
    started(database)
    work(database, Succeeded({"text": "x" * callbacks.MAX_RESULT}))
    assert do(relays.tick(database)).calls == 2
    for task in called(database):
        told = task.params["offered"]
        assert (told["result"], told["_result_data"]) == (None, None)
        assert told["_result_omitted"] > callbacks.MAX_RESULT


def test_events_are_dealt_with_in_pages_of_so_many_bytes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays, "_BYTES", 5_000)
    described = [{"name": n, "description": "", "origin": "tests", "params": None} for n in ("f", "note")]
    do(functions.register(database, described))
    each = [Callback("success", "note")]
    given = [WorkflowTask(f"t{n}", function="f", callbacks=each) for n in range(25)]
    do(workflows.save(database, [Workflow("flow", tasks=given)]))
    run_id = do(executions.execute(database, "flow")).run_id
    worker = session(database)
    leases = claim(database, worker, 25, kinds=("function",))
    finish(database, *((lease, Succeeded("x" * 1_000)) for lease in leases))
    pages = [do(database.run(relays._relay, run_id)) for _ in range(2)]
    assert [page.has_more for page in pages] == [True, True]
    assert {page.calls for page in pages} == {3}  # each has its result twice
    do(relays.tick(database))
    told = [task.params["offered"]["_task_name"] for task in called(database)]
    assert sorted(told) == sorted(task.name for task in given)


def test_a_run_whose_events_cannot_be_told_is_left_alone_for_a_while(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started(database)
    work(database, Succeeded())
    broken = True

    def calls(*given: Any) -> Any:
        if broken:
            raise RuntimeError("no calls today")
        return make(*given)

    make = callbacks.calls
    monkeypatch.setattr(callbacks, "calls", calls)
    telling = relays.Telling()
    assert [do(relays.tick(database, telling)).calls for _ in range(5)] == [0] * 5
    assert [record.message for record in caplog.records] == ["callback.failed"]
    broken = False
    assert do(relays.tick(database, telling)).calls == 0
    monkeypatch.setattr(relays.time, "monotonic", lambda: time.time() * 1_000)  # much later
    assert do(relays.tick(database, telling)).calls == 2
