"""Bindings of plug-ins: each event that there was gives exactly one task for each of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from engine.errors import InvalidInput, NotFound
from engine.model.outcomes import Failed, Outcome, Released, Succeeded
from engine.model.plugins import Binding, PluginEvent
from engine.model.records import Task
from engine.model.workflows import Workflow, WorkflowTask
from engine.operations import executions, plugins, relays, runs, workflows
from engine.plugins.registry import PluginRegistry
from engine.store.database import Database
from tests.factories import claim, do, finish, make_due, rows, session, task_of

KIND = "fine"


def bind(database: Database, event: str, **fields: Any) -> Binding:
    document = {"plugin": "webhook", "event": event, "params": {"url": "http://h"}, **fields}
    [kept] = do(plugins.bind(database, Binding.of(document)))
    return kept


def bind_all(database: Database) -> None:
    for event in PluginEvent:
        bind(database, str(event))


def save(database: Database, *names: str, **fields: Any) -> None:
    tasks = [WorkflowTask(name, kind=KIND, **fields) for name in names or ("only",)]
    do(workflows.save(database, [Workflow("flow", tasks=tasks)]))


def start(database: Database) -> int:
    return do(executions.execute(database, "flow")).run_id


def work(database: Database, *outcomes: Outcome) -> None:
    """Take one task at a time, and end it so."""
    worker = session(database)
    for outcome in outcomes:
        make_due(database)
        [lease] = claim(database, worker, 1, kinds=(KIND,))
        finish(database, (lease, outcome))


def tick(database: Database) -> int:
    return do(relays.tick(database)).calls


def calls(database: Database) -> list[Task]:
    """The tasks that call plug-ins, of all runs, first to last."""
    found = [run for run in do(runs.list_runs(database, limit=500)) if "plugins_of" in run.labels]
    return [task for run in reversed(found) for task in do(runs.tasks(database, run.id))]


def told(database: Database) -> list[str]:
    return [task.params["data"]["event"] for task in calls(database)]


# --- events


def test_every_event_of_the_contract_is_told_once(database: Database) -> None:
    save(database, "good", "bad", "late", retry_count=1, retry_interval_ms=0)
    bind_all(database)
    run_id = start(database)
    do(runs.hold(database, run_id))
    do(runs.resume(database, run_id))
    timeout = Failed("context deadline exceeded", code="timeout")
    work(database, Succeeded(), Failed("first"), timeout)
    work(database, Failed("second"), timeout)
    made = tick(database)
    assert made == len(calls(database))
    assert sorted(told(database)) == sorted(
        [
            *("workflow.started", "workflow.paused", "workflow.resumed", "workflow.failed"),
            *["task.started"] * 5,
            *["task.retrying"] * 2,
            *("task.success", "task.failed", "task.timeout"),
        ]
    )
    assert tick(database) == 0


def test_a_run_that_succeeds_and_one_that_is_cancelled(database: Database) -> None:
    save(database)
    for event in ("workflow.completed", "workflow.terminated"):
        bind(database, event)
    start(database)
    work(database, Succeeded())
    do(runs.cancel(database, start(database)))
    assert tick(database) == 2
    assert told(database) == ["workflow.completed", "workflow.terminated"]


def test_what_is_told_of_a_task(database: Database) -> None:
    save(database)
    bind(database, "task.success", id="mine")
    run_id = start(database)
    work(database, Succeeded({"rows": 3}))
    tick(database)
    [call] = calls(database)
    assert (call.kind, call.retry.max_attempts) == ("plugin", 5)
    assert call.name.endswith(" mine")
    params = call.params
    assert (params["plugin"], params["params"]) == ("webhook", {"url": "http://h"})
    data = params["data"]
    assert data["at"].endswith("Z") and data["workflow"].pop("id").startswith("wf-")
    assert data["workflow"] == {
        "name": "flow",
        "version": 1,
        "instance_id": str(run_id),
        "status": "Success",
        "total_tasks": 1,
        "completed": 1,
        "failed": 0,
    }
    assert data["task"] == {
        "id": str(task_of(database, run_id, "only").id),
        "name": "only",
        "kind": KIND,
        "attempt": 1,
        "status": "Success",
        "result": {"rows": 3},
    }
    assert data["error"] == {"code": "", "message": ""}


def test_a_failed_workflow_says_why(database: Database) -> None:
    save(database)
    bind(database, "workflow.failed")
    start(database)
    work(database, Failed("no route to host"))
    tick(database)
    [call] = calls(database)
    assert call.params["data"]["task"] is None
    assert call.params["data"]["error"]["message"] == "no route to host"


def test_a_start_is_told_without_what_came_of_it(database: Database) -> None:
    save(database)
    bind(database, "task.started")
    start(database)
    work(database, Failed("no"))
    tick(database)
    [call] = calls(database)
    assert call.params["data"]["task"]["status"] == "Running"
    assert call.params["data"]["error"]["message"] == ""


def test_a_task_that_is_given_back_is_not_told_as_retried(database: Database) -> None:
    save(database)
    bind(database, "task.retrying")
    start(database)
    work(database, Released(), Succeeded())
    assert tick(database) == 0


def test_a_large_result_is_left_out(database: Database) -> None:
    save(database)
    bind(database, "task.success")
    start(database)
    work(database, Succeeded("x" * 40_000))
    tick(database)
    [call] = calls(database)
    assert call.params["data"]["task"]["result"] is None


def test_a_run_that_goes_on_after_its_end_is_told_of_again(database: Database) -> None:
    save(database)
    bind(database, "workflow.failed")
    bind(database, "workflow.completed")
    run_id = start(database)
    work(database, Failed("no"))
    assert tick(database) == 1
    assert rows(database, "SELECT is_over FROM relay")[0].is_over
    do(runs.retry(database, run_id))
    work(database, Succeeded())
    assert tick(database) == 1
    assert told(database) == ["workflow.failed", "workflow.completed"]


# --- exactly one task


def test_tickers_that_race_make_one_task_for_each_event(row_locking: Database) -> None:
    save(row_locking, "a", "b", "c")
    bind_all(row_locking)
    for _ in range(4):
        start(row_locking)
        work(row_locking, Succeeded(), Failed("no"), Succeeded())
    with ThreadPoolExecutor(3) as pool:
        made = sum(pool.map(lambda _: tick(row_locking), range(9)))
    of_tasks = [*["task.started"] * 3, *["task.success"] * 2, "task.failed"]
    per_run = ["workflow.started", "workflow.failed", *of_tasks]
    assert made == len(calls(row_locking)) == 4 * len(per_run)
    assert sorted(told(row_locking)) == sorted(4 * per_run)


def test_pages_together_tell_everything(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "_EVENTS", 3)
    monkeypatch.setattr(relays, "_SECONDS", 60.0)
    save(database, "a", "b", "c", "d")
    bind(database, "task.started")
    bind(database, "task.success")
    start(database)
    work(database, *[Succeeded()] * 4)
    assert tick(database) == 8
    assert sorted(told(database)) == ["task.started"] * 4 + ["task.success"] * 4
    assert tick(database) == 0


def test_many_runs_are_told_of_in_one_tick(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "_RUNS", 2)
    monkeypatch.setattr(relays, "_SECONDS", 60.0)
    save(database)
    bind(database, "workflow.terminated")
    for _ in range(5):
        do(runs.cancel(database, start(database)))
    assert tick(database) == 5


def test_nobody_is_told_of_what_plug_ins_do(database: Database) -> None:
    save(database)
    bind_all(database)
    start(database)
    work(database, Succeeded())
    made = tick(database)
    worker = session(database)
    for lease in claim(database, worker, kinds=("plugin",)):
        finish(database, (lease, Failed("no", is_permanent=True)))
    assert tick(database) == 0
    assert len(calls(database)) == made


def test_a_plug_in_cannot_change_what_became_of_the_run(database: Database) -> None:
    save(database)
    bind(database, "workflow.completed")
    run_id = start(database)
    work(database, Succeeded())
    tick(database)
    [lease] = claim(database, session(database), kinds=("plugin",))
    finish(database, (lease, Failed("broken", is_permanent=True)))
    assert do(runs.get(database, run_id)).state == "succeeded"


# --- which bindings count


def test_a_binding_counts_for_runs_that_start_later(database: Database) -> None:
    save(database)
    bind(database, "workflow.paused")  # so that somebody looks at the run
    start(database)
    bind(database, "task.success")
    work(database, Succeeded())
    assert tick(database) == 0


def test_runs_without_bindings_cost_nothing(database: Database) -> None:
    save(database)
    bind(database, "task.success", is_enabled=False)
    start(database)
    work(database, Succeeded())
    assert rows(database, "SELECT * FROM relay") == []


def test_a_binding_to_one_workflow_is_silent_about_others(database: Database) -> None:
    save(database)
    do(workflows.save(database, [Workflow("other", tasks=[WorkflowTask("a", kind=KIND)])]))
    kept = bind(database, "task.success", workflow_id="flow")
    assert kept.id == "webhook:task.success:flow"
    assert kept.workflow_id == do(workflows.get(database, "flow")).id
    do(executions.execute(database, "other"))
    start(database)
    work(database, Succeeded(), Succeeded())
    assert tick(database) == 1
    [call] = calls(database)
    assert call.params["data"]["workflow"]["name"] == "flow"


def test_what_is_taken_back_or_disabled_is_not_called(database: Database) -> None:
    save(database)
    bind(database, "task.success", id="one")
    bind(database, "task.success", id="two")
    bind(database, "task.success", id="three")
    start(database)
    work(database, Succeeded())
    do(plugins.unbind(database, "one"))
    bind(database, "task.success", id="two", is_enabled=False)
    assert tick(database) == 1
    with pytest.raises(NotFound, match="binding not found: one"):
        do(plugins.unbind(database, "one"))


def test_binding_again_replaces_and_keeps_the_time(database: Database) -> None:
    first = bind(database, "task.failed")
    again = bind(database, "task.failed", params={"url": "http://other"})
    assert (again.id, again.created_at) == (first.id, first.created_at)
    assert [binding.params for binding in do(plugins.list_bindings(database))] == [{"url": "http://other"}]


# --- what cannot be bound


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"event": "task.failed"}, "plugin is a text"),
        ({"plugin": "webhook", "event": "task.fail"}, 'did you mean "task.failed"?'),
        ({"plugin": "webhook", "event": None}, "unknown event None"),
        (
            {"plugin": "webhook", "event": "task.failed", "conditon": "x"},
            'unknown field "conditon"; did you mean "condition"?',
        ),
        ({"plugin": "webhook", "event": "task.failed", "params": []}, "params is an object"),
        ({"plugin": "webhook", "event": "task.failed", "params": {"a": "\0"}}, "cannot be stored"),
        ({"plugin": "webhook", "event": "task.failed", "params": {"a": "x" * 70_000}}, "the limit is 65536"),
        ({"plugin": "webhook", "event": "task.failed", "id": "x" * 151}, "id has 151 characters"),
        ({"plugin": "webhook", "event": "task.failed", "id": "a\nb"}, "control character"),
        ({"plugin": "webhook", "event": "task.failed", "is_enabled": 1}, "is_enabled is true or false"),
    ],
)
def test_what_is_no_binding_is_refused(document: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Binding.of(document)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"plugin": "webhok"}, 'unknown plug-in "webhok"; did you mean "webhook"?'),
        ({"params": {}}, "url is required"),
        ({"condition": "task.name =="}, "condition: line 1"),
        ({"condition": "nobody == 1"}, "unknown name: nobody"),
        ({"condition": "1 + 1"}, "a condition is true or false"),
        ({"event": "workflow.failed", "condition": "task.name == 'a'"}, "unknown name: task"),
    ],
)
def test_what_can_never_work_is_not_bound(database: Database, document: dict[str, Any], message: str) -> None:
    whole = {"plugin": "webhook", "event": "task.failed", "params": {"url": "http://h"}, **document}
    with pytest.raises(InvalidInput) as refused:
        do(plugins.bind(database, Binding.of(whole), plugins=PluginRegistry.installed()))
    assert message in str(refused.value)
    assert do(plugins.list_bindings(database)) == []


def test_a_workflow_that_is_not_there_cannot_be_bound_to(database: Database) -> None:
    with pytest.raises(NotFound, match="workflow not found: nowhere"):
        bind(database, "task.failed", workflow_id="nowhere")
