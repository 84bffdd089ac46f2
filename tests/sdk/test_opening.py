"""Engines are opened once at a time, closed as often as one likes, and refuse settings that cannot work."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import engine
from engine.errors import ConfigError, Conflict


def test_an_engine_that_is_open_is_not_opened_again(database_url: str) -> None:
    async def main() -> None:
        e = engine.EngineBuilder(url=database_url).build()
        await e.stop()  # nothing to do yet
        await e.start()
        with pytest.raises(Conflict, match="the engine is already open"):
            await e.start()
        with pytest.raises(Conflict, match="the engine is already open"):
            async with e:
                pass
        assert await e.list_runs() == []  # the first opening holds
        await e.stop()
        await e.stop()
        with pytest.raises(Conflict, match="not open"):
            await e.list_runs()

    asyncio.run(main())


def test_an_engine_is_not_opened_twice_at_once() -> None:
    async def main() -> None:
        e = engine.Engine("sqlite://")
        first, second = await asyncio.gather(e.__aenter__(), e.__aenter__(), return_exceptions=True)
        assert first is e and isinstance(second, Conflict)
        await e.__aexit__(None, None, None)

    asyncio.run(main())


def test_an_engine_can_be_opened_again_once_it_is_closed_or_could_not_be_opened(tmp_path: Any) -> None:
    async def main() -> None:
        url = f"sqlite:///{tmp_path / 'engine.db'}"
        e = engine.Engine(url)
        async with engine.Engine(url):
            for _ in "ab":
                with pytest.raises(ConfigError, match="use"):
                    await e.__aenter__()
        for _ in "ab":
            async with e:
                accepted = await e.submit(engine.graph([{"name": "a", "kind": "noop"}]))
                assert (await e.wait(accepted.run_id, timeout=20)).state == "succeeded"

    asyncio.run(main())


def test_a_blocking_engine_is_opened_once_and_closed_twice() -> None:
    e = engine.SyncEngine("sqlite://")
    for _ in "ab":
        with e:
            with pytest.raises(Conflict, match="the engine is already open"):
                e.__enter__()
            assert e.list_runs() == []
        e.__exit__(None, None, None)


def test_a_task_on_the_loop_of_a_blocking_engine_cannot_wait_for_it() -> None:
    @engine.task
    async def asks() -> str:
        with pytest.raises(Conflict, match="make the task a plain `def`"):
            e.list_runs()
        return "refused"

    @engine.task
    def waits() -> int:
        return len(e.list_runs())

    tasks = [engine.WorkflowTask(name, function=name) for name in ("asks", "waits")]
    with engine.SyncEngine("sqlite://", functions=[asks, waits]) as e:
        run = e.wait(e.execute(engine.Workflow("w", tasks=tasks)).run_id, timeout=20)
        assert {each.name: each.last and each.last.result for each in e.tasks(run.id)} == {
            "asks": "refused",
            "waits": 1,
        }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency is an integer, 1 or more, got 0"),
        ({"concurrency": True}, "concurrency is an integer, 1 or more, got True"),
        ({"concurrency": "4"}, "concurrency is an integer, 1 or more, got '4'"),
        ({"queues": "gpu"}, "queues is a list of names, empty for every queue, got 'gpu'"),
        ({"queues": [3]}, r"queues is a list of names, empty for every queue, got \[3\]"),
        ({"queues": 3}, "queues is a list of names, empty for every queue, got 3"),
        ({"queues": [""]}, "queues is a list of names"),
    ],
)
def test_a_worker_that_could_not_work_is_refused(options: dict[str, Any], message: str) -> None:
    for made in (engine.Engine, engine.SyncEngine, engine.WorkerOptions):
        with pytest.raises(ConfigError, match=message):
            made(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"poll_seconds": 0}, "poll_seconds is a number of seconds, more than 0, got 0"),
        ({"lease_seconds": -1.0}, "lease_seconds is a number of seconds, more than 0, got -1.0"),
        ({"sweep_seconds": float("nan")}, "sweep_seconds is a number of seconds, more than 0, got nan"),
        ({"retention_seconds": float("inf")}, "retention_seconds is a number of seconds"),
        ({"grace_seconds": -0.1}, "grace_seconds is a number of seconds, 0 or more, got -0.1"),
        ({"beat_seconds": "5s"}, "beat_seconds is a number of seconds, more than 0, got '5s'"),
        ({"lease_seconds": 9}, r"beat_seconds is at most half of lease_seconds \(9\), got 5"),
    ],
)
def test_times_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine.WorkerOptions(**options)


@pytest.mark.parametrize("option", [{"workers": -1}, {"workers": 1.5}, {"pool_size": 0}])
def test_an_engine_counts_its_parts(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} is an integer, . or more"):
        engine.Engine("sqlite://", **option)


def test_options_may_list_queues() -> None:
    assert engine.WorkerOptions(queues=["a", "b"]).queues == ("a", "b")  # type: ignore[arg-type]
