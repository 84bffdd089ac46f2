"""`task-engine saga`, signals, events and reasons: the same on a server and on a database."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import Result

from engine.functions.registry import FunctionRegistry
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.workflows import UndoFunction, Workflow, WorkflowTask
from engine.operations import executions, functions, runs, sagas, steps, workflows
from engine.store.database import Database
from tests.cli.process import Program
from tests.factories import claim, do, finish, session

Call = Callable[..., Result]
STREAMING = """
workflows:
  definitions:
    - workflow_id: listening
      execution_mode: streaming
      realtime_tasks:
        - {task_id: feed, mode: event_driven, buffer_size: 1, batch_size: 1,
           subscriptions: [{event: order, func_key: undo}]}
"""


def undo(**given: Any) -> None: ...


@dataclass
class Engine:
    """One SQLite file on which nobody works but the test, and the flags that lead to it."""

    database: Database
    way: list[str]
    call: Call

    def on(self, *arguments: str) -> Any:
        result = self.call(*arguments, "--json", *self.way)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def say(self, *arguments: str, code: int = 0) -> str:
        result = self.call(*arguments, *self.way)
        assert result.exit_code == code, result.output
        return result.stdout if code == 0 else result.stderr

    def started(self) -> int:
        """An instance of which `charge` and `ship` can be undone."""
        flow = Workflow(
            "trip",
            tasks=[
                WorkflowTask("charge", kind="noop", compensation=UndoFunction("undo")),
                WorkflowTask("ship", kind="noop", depends_on=["charge"], compensation=UndoFunction("undo")),
                WorkflowTask("tell", kind="noop", depends_on=["ship"]),
            ],
        )
        [saved] = do(workflows.save(self.database, [flow]))
        run_id = do(executions.execute(self.database, saved.id)).run_id
        assert run_id is not None
        return run_id

    def end(self, *outcomes: Outcome) -> None:
        worker = session(self.database)
        for outcome in outcomes:
            [lease] = claim(self.database, worker, kinds=("noop", "function"))
            finish(self.database, (lease, outcome))

    def failed(self) -> tuple[int, int]:
        """An instance whose two compensations have failed, and the run of those."""
        run_id = self.started()
        self.end(Succeeded(), Succeeded(), Failed("no"), Failed("sunk"), Failed("bank is closed"))
        compensations = do(sagas.get(self.database, run_id)).compensation_run_id
        assert compensations is not None
        return run_id, compensations


@pytest.fixture(params=["server", "database"])
def engine(request: pytest.FixtureRequest, start: Callable[..., Program], call: Call) -> Iterator[Engine]:
    server = start("server", "start", "--port", "0", "--shared", "--workers", "0")
    url = server.event("server.started")["url"]
    database = Database("sqlite:///data/task-engine.db", wake_others=False)
    do(functions.register(database, FunctionRegistry([undo]).describe()))
    yield Engine(database, ["--server", url] if request.param == "server" else ["--data-dir", "data"], call)
    database.close()


def lines(text: str) -> list[str]:
    return [re.sub(r" +", " ", line).strip() for line in text.splitlines()]


def test_what_would_be_undone_is_shown_in_its_order(engine: Engine) -> None:
    run_id = engine.started()
    engine.end(Succeeded(), Succeeded())
    assert lines(engine.say("saga", "show", str(run_id))) == [
        f"run {run_id}",
        "state pending",
        "",
        "STEP TASK WOULD BE UNDONE BY",
        "1 ship function undo",
        "2 charge function undo",
    ]
    shown = engine.on("saga", "show", str(run_id))
    assert [step["task"] for step in shown["undos"]] == ["ship", "charge"]


def test_failed_compensations_are_skipped_retried_and_signed_off(engine: Engine) -> None:
    run_id, compensations = engine.failed()
    number = str(run_id)
    skipped = engine.say("saga", "skip", number, "ship", "--reason", "it is lost")
    assert skipped == f"✅ Saga of run {run_id}: failed; left: charge\n"
    assert lines(engine.say("saga", "show", number)) == [
        f"run {run_id}",
        "state failed",
        f"undone by run {compensations}",
        "",
        "STEP TASK KIND STATE ATTEMPTS ERROR",
        "1 ship function skipped 1 local: it is lost",
        "2 charge function failed 1 bank is closed",
    ]
    assert engine.say("saga", "retry", number) == f"✅ Saga of run {run_id}: compensating\n"
    engine.end(Failed("still closed"))
    assert engine.on("saga", "show", number)["state"] == "failed"
    assert engine.say("saga", "sign-off", number, "--reason", "by hand") == (
        f"✅ Saga of run {run_id}: signed_off\n"
    )
    assert lines(engine.say("saga", "show", number))[3:5] == [
        "signed off by local",
        "reason by hand",
    ]


def test_what_cannot_be_skipped_is_an_error(engine: Engine) -> None:
    run_id, _ = engine.failed()
    skip = ("saga", "skip", str(run_id))
    assert engine.say(*skip, "nope", "--reason", "r", code=1) == (
        f"error: run {run_id} has no compensation of task 'nope'\n"
    )
    assert "--reason" in engine.say(*skip, "ship", code=2)
    assert "is not 1 to" in engine.say(*skip, "ship", "--reason", " ", code=2)
    assert engine.say("saga", "show", "99", code=1) == "error: run not found: 99\n"
    assert [task["is_skipped"] for task in engine.on("saga", "show", str(run_id))["compensations"]] == [
        False,
        False,
    ]


def test_the_status_of_an_instance_leads_to_its_saga(engine: Engine) -> None:
    run_id, compensations = engine.failed()
    status = engine.say("instance", "status", str(run_id))
    told = f"Saga:     failed (by run {compensations}; `task-engine saga show {run_id}`)\n"
    assert told in status
    shown = engine.on("instance", "status", str(run_id))
    assert shown["saga"] == {"state": "failed", "compensation_run_id": compensations}
    watched = engine.say("instance", "status", str(run_id), "--watch", code=1)
    assert watched == ""  # nothing on standard error


def test_an_instance_without_compensations_has_no_saga(engine: Engine) -> None:
    [saved] = do(workflows.save(engine.database, [Workflow("plain", tasks=[WorkflowTask("a", kind="noop")])]))
    run_id = do(executions.execute(engine.database, saved.id)).run_id
    assert "Saga" not in engine.say("instance", "status", str(run_id))
    assert "saga" not in engine.on("instance", "status", str(run_id))


def test_a_signal_is_sent_with_a_value(engine: Engine) -> None:
    run_id = engine.started()
    sent = engine.on("instance", "signal", str(run_id), "go/on", "--value", '{"by": "ann"}')
    assert sent == {"run_id": run_id, "name": "go/on", "number": 1}
    assert engine.say("instance", "signal", str(run_id), "stop", "--value", "now") == (
        "✅ Signal sent: stop (number 2)\n"
    )
    engine.say("instance", "signal", str(run_id), "stop")
    found = do(steps.list_signals(engine.database, run_id))
    assert [(row.name, row.payload) for row in found] == [
        ("go/on", {"by": "ann"}),
        ("stop", "now"),
        ("stop", None),
    ]
    assert engine.say("instance", "signal", "99", "go", code=1) == "error: instance not found: 99\n"


def test_an_event_is_published_to_the_tasks_that_take_it(engine: Engine) -> None:
    assert engine.call("workflow", "upload", "-", *engine.way, text=STREAMING).exit_code == 0
    instance_id = engine.on("workflow", "execute", "listening")["instance_id"]
    taken = engine.on("instance", "publish", instance_id, "order", "--payload", '{"id": 1}')
    assert (taken["instance_id"], taken["type"], taken["tasks"]) == (instance_id, "order", ["feed"])
    assert "they take: " in engine.say("instance", "publish", instance_id, "odrer", code=1)


def test_a_cancelled_instance_says_the_reason(engine: Engine) -> None:
    run_id = engine.started()
    engine.say("instance", "cancel", str(run_id), "--reason", "wrong day")
    [first, *_] = do(runs.tasks(engine.database, run_id))
    assert first.reason == "wrong day"
