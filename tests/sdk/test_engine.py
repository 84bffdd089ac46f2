"""The embedded engine, from both sides of the event loop, on both databases."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
import sqlalchemy as sa

import engine
from engine.errors import (
    ConfigError,
    Conflict,
    GraphError,
    NotFound,
    SchemaMismatch,
    StoreUnavailable,
    UnknownKind,
)
from engine.executors.base import TaskContext
from engine.executors.registry import ExecutorRegistry
from engine.model.json import JSON
from engine.model.outcomes import Outcome
from engine.store import queries
from engine.testing import run_graph
from engine.worker.options import WorkerOptions
from tests.factories import graph
from tests.sdk.callers import libpq
from tests.support.postgres import Server

OPTIONS = WorkerOptions(poll_seconds=0.05, grace_seconds=5.0)


class Scripted:
    """Performs the kind of the factories as the test says; `gate` holds every attempt up."""

    kind: ClassVar[str] = "noop"
    category: ClassVar[str] = "test"

    def __init__(self, settings: engine.ExecutorSettings | None = None) -> None:
        self.started: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken: set[str] = set()

    def check(self, params: JSON) -> None: ...

    async def execute(self, context: TaskContext, params: JSON) -> Outcome:
        self.started.append(context.lease.name)
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        if context.lease.name in self.broken:
            return engine.Failed("broken", is_permanent=True)
        return engine.Succeeded({"name": context.lease.name})


@pytest.fixture
def scripted() -> Scripted:
    return Scripted()


@pytest.fixture
def opened(
    database_url: str, scripted: Scripted
) -> Callable[[Callable[[engine.Engine], Awaitable[None]]], None]:
    """Runs a test's body with an open engine."""

    def run(body: Callable[[engine.Engine], Awaitable[None]]) -> None:
        async def main() -> None:
            registry = ExecutorRegistry.from_executors([scripted])
            async with engine.Engine(database_url, registry=registry, options=OPTIONS) as e:
                await body(e)

        asyncio.run(main())

    return run


Opened = Callable[[Callable[[engine.Engine], Awaitable[None]]], None]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_graph_runs_to_its_end(opened: Opened, scripted: Scripted) -> None:
    async def body(e: engine.Engine) -> None:
        accepted = await e.submit(graph("a -> b, c -> d"), key="k", name="first")
        ended = await e.wait(accepted.run_id, timeout=20)
        assert (ended.state, ended.name, ended.succeeded) == ("succeeded", "first", 4)
        tasks = {task.name: task for task in await e.tasks(accepted.run_id)}
        assert tasks["d"].last is not None and tasks["d"].last.result == {"name": "d"}
        assert scripted.started[0] == "a" and scripted.started[-1] == "d"
        assert [event.number for event in await e.events(accepted.run_id)] == list(range(1, ended.events + 1))
        assert (await e.submit(graph("a -> b, c -> d"), key="k", name="first")).is_repeat
        assert [run.id for run in await e.list_runs()] == [accepted.run_id]
        assert await e.logs(accepted.run_id) == []

    opened(body)


def test_many_can_wait_for_many_runs(opened: Opened) -> None:
    async def body(e: engine.Engine) -> None:
        accepted = await e.submit_many([graph("a -> b")] * 30)
        waits = [e.wait(one.run_id, timeout=20) for one in accepted for _ in range(2)]
        assert {run.state for run in await asyncio.gather(*waits)} == {"succeeded"}

    opened(body)


def test_the_module_function_takes_an_engine(opened: Opened) -> None:
    async def body(e: engine.Engine) -> None:
        accepted = await engine.submit(e, graph("a"), actor="me")
        [one] = await engine.submit_many(e, [graph("a")])
        assert [event.actor for event in await e.events(accepted.run_id, limit=1)] == ["me"]
        await e.wait(one.run_id, timeout=20)

    opened(body)


def test_a_run_can_be_paused_resumed_cancelled_retried_and_deleted(
    opened: Opened, scripted: Scripted
) -> None:
    async def body(e: engine.Engine) -> None:
        scripted.gate.clear()
        scripted.broken = {"b"}
        run_id = (await e.submit(graph("a -> b -> c"))).run_id
        await until(lambda: scripted.started == ["a"])
        assert (await e.pause(run_id)).state == "paused"
        scripted.gate.set()
        with pytest.raises(TimeoutError):
            await e.wait(run_id, timeout=0.2)
        assert scripted.started == ["a"]
        await e.resume(run_id)
        assert (await e.wait(run_id, timeout=20)).state == "failed"
        scripted.broken = set()
        assert (await e.retry(run_id)).state != "failed"
        assert (await e.wait(run_id, timeout=20)).state == "succeeded"
        with pytest.raises(Conflict):
            await e.cancel(run_id)
        await e.delete(run_id)
        with pytest.raises(NotFound):
            await e.get(run_id)

    opened(body)


def test_a_cancelled_run_ends(opened: Opened, scripted: Scripted) -> None:
    async def body(e: engine.Engine) -> None:
        scripted.gate.clear()
        run_id = (await e.submit(graph("a -> b"))).run_id
        await until(lambda: scripted.started == ["a"])
        await e.cancel(run_id, reason="enough")
        assert (await e.wait(run_id, timeout=20)).state == "cancelled"

    opened(body)


def test_waiting_for_what_is_not_there_or_goes_away(opened: Opened, scripted: Scripted) -> None:
    async def body(e: engine.Engine) -> None:
        with pytest.raises(NotFound, match="4711"):
            await e.wait(4711, timeout=20)
        ended = (await e.submit(graph("a"))).run_id
        await e.wait(ended)
        assert (await e.wait(ended, timeout=20)).state == "succeeded"

    opened(body)


def test_waiting_looks_seldom(opened: Opened, scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    get_run = queries.get_run

    def counted(*args: Any) -> Any:
        looks.append(time.monotonic())
        return get_run(*args)

    async def body(e: engine.Engine) -> None:
        scripted.gate.clear()
        run_id = (await e.submit(graph("a"))).run_id
        await until(lambda: scripted.started == ["a"])
        monkeypatch.setattr(queries, "get_run", counted)
        with pytest.raises(TimeoutError):
            await e.wait(run_id, timeout=1.0)
        count = len(looks)
        assert 2 <= count <= 25
        await asyncio.sleep(0.3)
        assert len(looks) <= count + 1  # nobody waits, nobody looks
        monkeypatch.undo()
        scripted.gate.set()
        await e.wait(run_id, timeout=20)

    opened(body)


def test_closing_ends_a_wait(database_url: str) -> None:
    async def main() -> None:
        async with engine.Engine(database_url, workers=0) as e:
            run_id = (await e.submit(graph("a"))).run_id
            waiter = asyncio.create_task(e.wait(run_id))
            await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="closed"):
            await waiter

    asyncio.run(main())


def test_an_engine_that_is_not_open_says_so(database_url: str) -> None:
    e = engine.Engine(database_url)
    with pytest.raises(Conflict, match="async with"):
        asyncio.run(e.submit(graph("a")))
    with pytest.raises(Conflict, match=r"with engine\.SyncEngine"):
        engine.SyncEngine(database_url).submit(graph("a"))


def test_an_engine_can_be_opened_again(database_url: str, scripted: Scripted) -> None:
    e = engine.SyncEngine(database_url, registry=ExecutorRegistry.from_executors([scripted]), options=OPTIONS)
    for _ in range(2):
        with e:
            e.wait(e.submit(graph("a")).run_id, timeout=20)
    assert scripted.started == ["a", "a"]


def test_the_blocking_face_works_from_many_threads(database_url: str, scripted: Scripted) -> None:
    registry = ExecutorRegistry.from_executors([scripted])
    with engine.SyncEngine(database_url, registry=registry, options=OPTIONS) as e:
        states: list[str] = []

        def use() -> None:
            accepted = engine.submit(e, graph("a -> b"))
            states.append(e.wait(accepted.run_id, timeout=20).state)

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert states == ["succeeded"] * 8
        with pytest.raises(GraphError):
            e.submit(graph("a -> a"))
        with pytest.raises(TimeoutError):
            scripted.gate.clear()
            e.wait(e.submit(graph("a")).run_id, timeout=0.1)
        scripted.gate.set()
    assert not [thread for thread in threading.enumerate() if thread.name == "engine-loop"]


def test_a_failed_start_comes_out_and_leaves_no_thread(cluster: Server) -> None:
    url = cluster.create_database("unready")
    with pytest.raises(SchemaMismatch, match="db upgrade"), engine.SyncEngine(url):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "engine-loop"]
    cluster.drop_database("unready")


def test_a_database_that_does_not_exist_is_named_with_the_reason(cluster: Server) -> None:
    url = sa.make_url(cluster.create_database("gone"))
    cluster.drop_database("gone")
    secret = url.set(password="s3cret", drivername="postgresql").render_as_string(hide_password=False)
    with (
        pytest.raises(StoreUnavailable, match=r'/gone.* is not available: .*"gone" does not exist') as caught,
        engine.SyncEngine(secret),
    ):
        pass
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database " * 100)
    expected = {f"sqlite:///{file}": "file is not a database", f"sqlite:///{file}/engine.db": "exists"}
    for url, reason in expected.items():
        with (
            pytest.raises(StoreUnavailable, match=rf"notes\.txt.* is not available: .*{reason}"),
            engine.SyncEngine(url),
        ):
            pass


def test_a_timeout_says_what_was_waited_for(opened: Opened, scripted: Scripted) -> None:
    async def body(e: engine.Engine) -> None:
        async def message(timeout: float) -> str:
            with pytest.raises(TimeoutError) as caught:
                await e.wait(run_id, timeout)
            return str(caught.value)

        scripted.gate.clear()
        run_id = (await e.submit(graph("a"))).run_id
        unseen = f"run {run_id} has not ended after 0 seconds; its state is not known yet"
        assert await message(0) == unseen
        waiter = asyncio.create_task(e.wait(run_id))  # as long as somebody waits, what was seen is kept
        seen = f"run {run_id} has not ended after 0.05 seconds; its state is running"
        async with asyncio.timeout(20):
            while await message(0.05) != seen:
                pass
        scripted.gate.set()
        await waiter

    opened(body)


def test_parameters_that_can_never_work_are_refused(opened: Opened, scripted: Scripted) -> None:
    async def body(e: engine.Engine) -> None:
        def check(params: JSON) -> None:
            if params == "bad":
                raise ValueError("not that")

        scripted.check = check  # type: ignore[method-assign]
        bad = engine.graph([{"name": "a", "kind": "noop", "params": "bad"}])
        with pytest.raises(GraphError, match='task "a": not that'):
            await e.submit(bad)
        with pytest.raises(GraphError, match='task "a": not that'):
            await e.submit_many([graph("a"), bad])
        assert await e.list_runs() == []

    opened(body)


def test_kinds_that_are_performed_elsewhere_are_accepted(row_locking_url: str, scripted: Scripted) -> None:
    registry = ExecutorRegistry.from_executors([scripted])
    with engine.SyncEngine(row_locking_url, registry=registry, options=OPTIONS) as e:
        e.submit(engine.graph([{"name": "a", "kind": "other", "params": "bad"}]))


def test_an_executor_that_is_not_asynchronous_is_refused() -> None:
    class Blocking(Scripted):
        def execute(self, context: TaskContext, params: JSON) -> Outcome:  # type: ignore[override]
            return engine.Succeeded(None)

    with (
        pytest.raises(ConfigError, match=r"Blocking\.execute must be `async def`"),
        engine.SyncEngine("sqlite://", registry=ExecutorRegistry(), executors=[Blocking()]),
    ):
        pass


def test_an_unfinished_run_goes_on_in_the_next_program(tmp_path: Any, scripted: Scripted) -> None:
    url = f"sqlite:///{tmp_path / 'new' / 'engine.db'}"  # neither file nor folder is there yet
    with engine.SyncEngine(url, workers=0) as e:
        run_id = e.submit(graph("a -> b")).run_id
    with engine.SyncEngine(url, executors=[scripted], registry=ExecutorRegistry(), options=OPTIONS) as e:
        assert e.wait(run_id, timeout=20).state == "succeeded"


def test_work_committed_elsewhere_is_found_and_can_be_hinted_at(
    row_locking_url: str, scripted: Scripted
) -> None:
    """A poll of a minute, so only the hint can be what started the task."""
    options = WorkerOptions(poll_seconds=60.0, grace_seconds=5.0)
    registry = ExecutorRegistry.from_executors([scripted])
    with engine.SyncEngine(row_locking_url, registry=registry, options=options) as e:
        e.wait(e.submit(graph("a")).run_id, timeout=20)  # the worker has seen this queue
        with psycopg.connect(libpq(sa.make_url(row_locking_url))) as connection:
            run_id = engine.submit(connection, graph("b")).run_id
        e.wake("default")
        assert e.wait(run_id, timeout=20).state == "succeeded"


def test_an_engine_alone_on_its_database_refuses_unknown_kinds() -> None:
    with engine.SyncEngine("sqlite://", registry=ExecutorRegistry.from_executors([Scripted()])) as e:
        with pytest.raises(UnknownKind, match="unknown task type: other"):
            e.submit(engine.graph([{"name": "a", "kind": "other"}]))
        with pytest.raises(UnknownKind):
            e.submit_many([graph("a"), engine.graph([{"name": "a", "kind": "other"}])])


def test_several_workers_share_the_work(database_url: str, scripted: Scripted) -> None:
    registry = ExecutorRegistry.from_executors([scripted])
    options = WorkerOptions(concurrency=1, poll_seconds=0.05)
    scripted.gate.clear()
    with engine.SyncEngine(database_url, workers=2, registry=registry, options=options) as e:
        run_id = e.submit(graph("a, b")).run_id
        asyncio.run(until(lambda: sorted(scripted.started) == ["a", "b"]))
        scripted.gate.set()
        e.wait(run_id, timeout=20)


def test_run_graph_tells_how_every_task_ended() -> None:
    async def main() -> None:
        scripted = Scripted()
        scripted.broken = {"b"}
        ended = await run_graph(graph("a -> b -> c"), [scripted])
        assert ended.run.state == "failed"
        assert {name: task.state for name, task in ended.tasks.items()} == {
            "a": "succeeded",
            "b": "failed",
            "c": "skipped",
        }
        assert ended.result("a") == {"name": "a"}
        with pytest.raises(NotFound, match="'c'"):
            ended.result("c")

    asyncio.run(main())


def test_run_graph_uses_the_installed_kinds_and_gives_up_in_time() -> None:
    async def main() -> None:
        assert (await run_graph(graph("a"))).result("a") == {"ok": True, "message": ""}
        scripted = Scripted()
        scripted.gate.clear()
        with pytest.raises(TimeoutError):
            await run_graph(graph("a"), [scripted], timeout=0.2)

    asyncio.run(main())
