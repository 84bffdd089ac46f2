"""Plug-ins of an embedded engine: from the event of a workflow to whoever is told, with real workers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

import engine
from engine import Engine, EngineBuilder, Workflow, WorkflowTask
from engine.errors import ConfigError, InvalidInput, NotFound
from engine.model.records import Attempt, Run, Task
from engine.operations import tasks
from engine.plugins.base import PluginData
from engine.store.database import Database
from tests.executors.servers import Answer, HttpServer, Request
from tests.worker.bench import until

pytestmark = pytest.mark.anyio
FLOW = Workflow(
    "flow",
    tasks=[
        WorkflowTask("good", function="good"),
        WorkflowTask("bad", function="bad", retry_count=1, retry_interval_ms=0),
    ],
)


def good() -> dict[str, int]:
    return {"rows": 3}


def bad() -> None:
    raise ValueError("no")


class Notes:
    name = "notes"

    def __init__(self) -> None:
        self.seen: list[PluginData] = []

    def init(self, params: Mapping[str, Any]) -> None:
        raise AssertionError("there are no params")

    async def execute(self, data: PluginData) -> None:
        self.seen.append(data)


@pytest.fixture
async def receiver(anyio_backend: str) -> AsyncIterator[HttpServer]:
    async with HttpServer() as server:
        yield server


async def calls(opened: Engine) -> list[Task]:
    """The tasks that call plug-ins, once all of them have ended."""

    async def ended() -> list[Task]:
        runs: list[Run] = [run for run in await opened.list_runs() if "plugins_of" in run.labels]
        found = [task for run in runs for task in await opened.tasks(run.id)]
        return found if found and all(run.finished_at for run in runs) else []

    found: list[Task] = await until(ended)
    return found


async def run_flow(opened: Engine) -> Run:
    return await opened.wait((await opened.execute(FLOW)).run_id, timeout=30)


async def test_an_object_is_told_of_events(database_url: str) -> None:
    notes = Notes()
    bindings = [{"plugin": "notes", "event": event} for event in ("task.success", "workflow.failed")]
    made = Engine(database_url, functions=[good, bad], plugins=[notes], plugin_bindings=bindings)
    async with made as opened:
        run = await run_flow(opened)
        await until(lambda: len(notes.seen) == 2)
        assert [binding.id for binding in await opened.plugin_bindings()] == [
            "notes:task.success",
            "notes:workflow.failed",
        ]
    seen = {str(data.event): data for data in notes.seen}
    success, failure = seen["task.success"], seen["workflow.failed"]
    assert (success.task_name, success.data["result"], success.status) == ("good", {"rows": 3}, "Success")
    assert (failure.instance_id, failure.status, failure.task_id) == (str(run.id), "Failed", None)
    assert failure.error is not None and "no" in failure.error


async def test_a_webhook_that_fails_twice_is_told_in_the_end(database_url: str, receiver: HttpServer) -> None:
    def hook(request: Request) -> Answer:
        again = len(receiver.requests) <= 2
        return Answer(503, headers={"Retry-After": "0"}) if again else Answer(200)

    receiver.routes["/hook"] = hook
    binding = {"plugin": "webhook", "event": "task.failed", "params": {"url": f"{receiver.url}/hook"}}
    async with Engine(database_url, functions=[good, bad], plugin_bindings=[binding]) as opened:
        await run_flow(opened)
        [call] = await calls(opened)
    assert (call.state, call.attempt) == ("succeeded", 3)
    bodies = [json.loads(request.body) for request in receiver.requests]
    assert len(bodies) == 3 and bodies[0] == bodies[1] == bodies[2]
    assert bodies[0]["task_name"] == "bad"
    deliveries = {request.headers["x-task-engine-delivery"] for request in receiver.requests}
    assert deliveries == {f"task-{call.id}"}


async def test_a_condition_decides_whether_it_is_called(database_url: str) -> None:
    notes = Notes()
    bindings = [
        {"plugin": "notes", "event": "task.success", "id": "yes", "condition": "task.result.rows == 3"},
        {"plugin": "notes", "event": "task.success", "id": "no", "condition": "workflow.name != 'flow'"},
        {"plugin": "notes", "event": "task.failed", "id": "why", "condition": "error.message.contains('no')"},
    ]
    made = Engine(database_url, functions=[good, bad], plugins=[notes], plugin_bindings=bindings)
    async with made as opened:
        await run_flow(opened)
        await until(lambda: len(notes.seen) == 2)
        ended = {task.name.split()[1]: str(task.state) for task in await calls(opened)}
    assert ended == {"yes": "succeeded", "no": "skipped", "why": "succeeded"}


async def test_bindings_are_made_and_taken_back_while_it_runs(database_url: str) -> None:
    async with Engine(database_url, functions=[good, bad], plugins=[Notes()]) as opened:
        await opened.save(FLOW)
        document = {"plugin": "notes", "event": "task.failed", "workflow_id": "flow"}
        [kept] = await opened.bind_plugin(document)
        assert await opened.plugin_bindings("flow") == [kept]
        with pytest.raises(InvalidInput, match="unknown plug-in"):
            await opened.bind_plugin({"plugin": "nobody", "event": "task.failed"})
        await opened.unbind_plugin(kept.id)
        with pytest.raises(NotFound):
            await opened.unbind_plugin(kept.id)
        assert await opened.plugin_bindings() == []


def builder() -> EngineBuilder:
    return EngineBuilder(url="sqlite://").with_function_map({"good": good, "bad": bad})


async def test_the_words_of_the_contract() -> None:
    notes = Notes()
    built = (
        builder()
        .with_plugin(notes)
        .with_plugin_binding({"plugin": "notes", "event": "workflow.started"})
        .build()
    )
    await built.start()
    try:
        instance = await built.execute_workflow(FLOW)
        await built.wait_for_instance(instance.run.id, timeout=30)
        await until(lambda: notes.seen)
    finally:
        await built.stop()
    assert [data.event for data in notes.seen] == ["workflow.started"]


def test_a_binding_to_a_plug_in_that_is_not_registered_is_an_error() -> None:
    binding = {"plugin": "notes", "event": "workflow.started"}
    with pytest.raises(InvalidInput, match='unknown plug-in "notes"'):
        builder().with_plugin_binding(binding).build()
    builder().with_plugin_binding(binding).with_plugin(Notes()).build()  # in whichever order
    with pytest.raises(InvalidInput, match="unknown event"):
        builder().with_plugin_binding({"plugin": "notes", "event": "workflow.begun"})
    with pytest.raises(ConfigError, match="provided twice"):
        builder().with_plugin(Notes()).with_plugin(Notes).build()


def test_programs_without_an_event_loop_bind_as_well() -> None:
    with engine.SyncEngine("sqlite://", plugins=[Notes()]) as opened:
        [kept] = opened.bind_plugin({"plugin": "notes", "event": "task.failed"})
        assert opened.plugin_bindings() == [kept]
        opened.unbind_plugin(kept.id)


async def test_an_event_waits_for_a_worker_that_has_the_plug_in(row_locking_url: str) -> None:
    """Other programs on the same database took the call, and used up its attempts."""
    notes = Notes()
    async with Engine(row_locking_url, functions=[good, bad]) as other:
        async with Engine(row_locking_url, plugins=[notes], workers=0) as binding:
            await binding.bind_plugin({"plugin": "notes", "event": "workflow.started"})
        await run_flow(other)

        async def is_given_back() -> Any:
            found = [run for run in await other.list_runs() if "plugins_of" in run.labels]
            return [await other.tasks(run.id) for run in found]

        [[call]] = await until(is_given_back)

        async def went_round() -> bool:
            [task] = await other.tasks(call.run_id)
            return task.attempt >= 2 and task.failures == 0

        await until(went_round)
        [(_, given_back), *_] = [
            (attempt.number, attempt) for attempt in await attempts_of(row_locking_url, call.id)
        ]
        assert given_back.outcome == "released"
        assert given_back.error == {
            "code": "unknown_plugin",
            "message": 'unknown plug-in "notes" (known: email, sms_alert, webhook)',
            "source": "scheduler",
        }
    async with Engine(row_locking_url, plugins=[notes]) as having:
        await having.wait(call.run_id, timeout=30)
    assert [data.event for data in notes.seen] == ["workflow.started"]


async def attempts_of(url: str, task_id: int) -> list[Attempt]:
    database = Database(url, wake_others=False)
    try:
        return await tasks.attempts(database, task_id)
    finally:
        database.close()


async def test_a_binding_waits_for_its_workflow() -> None:
    """A program binds when it starts, and saves its workflows after that."""
    notes = Notes()
    bindings = [{"plugin": "notes", "event": "workflow.started", "workflow_id": "flow"}]
    async with Engine(functions=[good, bad], plugins=[notes], plugin_bindings=bindings, url="sqlite://") as e:
        assert await e.plugin_bindings() == []
        [saved] = await e.save(FLOW)
        assert [each.workflow_id for each in await e.plugin_bindings()] == [saved.id]
        await e.wait((await e.execute("flow")).run_id, timeout=30)
        await until(lambda: notes.seen)
