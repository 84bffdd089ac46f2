"""Functions in processes of their own, which can be killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError, UnknownKind
from engine.executors.function import FunctionExecutor
from tests.executors import functions
from tests.executors.calling import PROCESS_TASKS, ROOT, Make, asking, call, failure, noted, result
from tests.executors.factories import eventually, is_alive, make_context, make_settings
from tests.executors.worlds import World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def executor(make: Make) -> FunctionExecutor:
    return make(*PROCESS_TASKS, services={"limits": {"most": 8}, "lock": threading.Lock()})


async def test_a_process_is_used_again_and_sees_none_of_our_settings(
    executor: FunctionExecutor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_DATABASE_URL", "postgresql://secret")
    monkeypatch.setenv("OTHER", "kept")
    context = make_context(world)
    first = result(await executor.execute(context, asking("where")))
    assert first["environment"] == {"OTHER": "kept", **context.environment}
    second = result(await call(executor, world, "where"))
    assert second["pid"] == first["pid"] != os.getpid()
    other_session = result(await executor.execute(make_context(world, session_id=4), asking("where")))
    assert other_session["pid"] != first["pid"]


async def test_output_of_a_process_goes_to_the_attempt_s_log(
    executor: FunctionExecutor, world: World
) -> None:
    result(await call(executor, world, "talk"))
    assert world.logged("stdout") == "printed\nfrom C\nfrom a child\n"
    assert world.logged("stderr") == "complained\n"
    assert world.logged("log") == "WARNING mine: 3 rows\nValueError: too few\n"


async def test_output_is_taken_although_the_end_of_the_call_is_seen_first(
    executor: FunctionExecutor, world: World
) -> None:
    result(await call(executor, world, "square", n=1))
    [process] = executor._processes._idle
    for descriptor in process._output:
        asyncio.get_running_loop().remove_reader(descriptor)
    result(await call(executor, world, "talk"))
    assert world.logged("stdout") == "printed\nfrom C\nfrom a child\n"


async def test_output_of_a_process_is_cut_at_the_limit(make: Make, world: World, tmp_path: Path) -> None:
    limits = make_settings(tmp_path).limits.__class__(output_bytes=10)
    executor = make(functions.talk, settings=make_settings(tmp_path, limits=limits))
    result(await call(executor, world, "talk"))
    assert world.logged("stdout").startswith("printed\nfr\n[... truncated, ")


async def test_a_process_uses_the_context_through_its_worker(
    executor: FunctionExecutor, world: World
) -> None:
    outcome = await executor.execute(make_context(world, attempt=1), asking("ask", any="x"))
    assert result(outcome) == {
        "ids": [5],
        "upstream": 3,
        "service": 8,
        "again": True,
        "has": [True, False],
        "step": 42,
        "params": {"any": "x"},
        "thread": True,
    }
    assert world.reports == [{"at": 1}]
    assert [spec.params for spec in world.spawned] == [asking("square", n=2)]
    assert world.logged("log") == "asked\nINFO step: and logged\n"


async def test_what_a_port_raises_is_raised_in_the_process(executor: FunctionExecutor, world: World) -> None:
    unknown = failure(await call(executor, world, "use", key="mail"))
    assert unknown.code == "not_found"
    unpicklable = failure(await call(executor, world, "use", key="lock"))
    assert unpicklable.code == "config_error"
    assert "service 'lock' cannot be sent to a process" in unpicklable.message


async def test_an_error_that_cannot_travel_is_told_in_words(
    executor: FunctionExecutor, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spawn(tasks: Any) -> list[int]:
        raise UnknownKind("gone", ["noop"])  # made of two arguments, and pickled with one

    monkeypatch.setattr(world, "spawn", spawn)
    failed = failure(await call(executor, world, "ask"))
    assert "UnknownKind: unknown task type: gone (available: noop)" in failed.message


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        ("raise", "external_failure", "ValueError: not that"),
        ("permanent", "permanent_failure", "never"),
        ("later", "retry_after", "try again in 30 s"),
        ("exit", "external_failure", "SystemExit: 3"),
    ],
)
async def test_exceptions_in_a_process_are_failures(
    executor: FunctionExecutor, world: World, how: str, code: str, message: str
) -> None:
    failed = failure(await call(executor, world, "fail", how=how))
    assert (failed.code, failed.message) == (code, message)
    assert failed.is_permanent == (how == "permanent")
    assert "in fail" in world.logged("log") and "perform" not in world.logged("log")


@pytest.mark.parametrize(("how", "ended"), [("kill", "signal: killed"), ("leave", "exit status 7")])
async def test_a_process_that_dies_fails_its_own_attempt_only(
    executor: FunctionExecutor, world: World, tmp_path: Path, how: str, ended: str
) -> None:
    go = tmp_path / "go"
    waiting = asyncio.create_task(
        call(executor, world, "wait_for_file", path=str(go), me=str(tmp_path / "me"))
    )
    [pid] = await noted(tmp_path / "me")
    failed = failure(await call(executor, world, "fail", how=how))
    assert (failed.code, failed.message) == (
        "process_ended",
        f'the process of function "fail" ended: {ended}',
    )
    assert failed.retryable and not failed.is_permanent
    if how == "kill":
        assert world.logged("stdout") == "last words\n"
    go.touch()
    assert result(await waiting) == pid
    assert result(await call(executor, world, "square", n=3)) == 9


async def test_an_idle_process_that_was_killed_is_replaced(executor: FunctionExecutor, world: World) -> None:
    pid = result(await call(executor, world, "where"))["pid"]
    os.kill(pid, 9)
    assert result(await call(executor, world, "where"))["pid"] != pid  # noticed before or after it was sent


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_a_process_that_is_stopped_is_killed_with_what_it_started(
    executor: FunctionExecutor, world: World, tmp_path: Path, is_cancelled: bool
) -> None:
    context = make_context(world)
    handle = asyncio.create_task(executor.execute(context, asking("hang", note=str(tmp_path / "note"))))
    pids = await noted(tmp_path / "note")
    if is_cancelled:
        context.cancelled.set()
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle
    await eventually(lambda: not any(map(is_alive, pids)))  # the killed take a moment to die
    assert result(await call(executor, world, "square", n=3)) == 9


async def test_a_cancelled_process_has_time_to_end_by_itself(
    executor: FunctionExecutor, world: World, tmp_path: Path
) -> None:
    context = make_context(world)
    given = asking("hang_politely", note=str(tmp_path / "note"))
    handle = asyncio.create_task(executor.execute(context, given))
    [pid] = await noted(tmp_path / "note")
    context.cancelled.set()
    handle.cancel()
    assert result(await handle) == "cleaned up"
    assert is_alive(pid)


async def test_a_process_that_takes_too_long_is_killed_at_once(
    executor: FunctionExecutor, world: World, tmp_path: Path
) -> None:
    given = asking("hang_politely", note=str(tmp_path / "note"))
    handle = asyncio.create_task(executor.execute(make_context(world), given))
    [pid] = await noted(tmp_path / "note")
    handle.cancel()  # as the runner's timeout does
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert not is_alive(pid)


async def test_a_cancelled_process_that_sleeps_durably_is_woken(
    executor: FunctionExecutor, world: World, tmp_path: Path
) -> None:
    context = make_context(world)
    handle = asyncio.create_task(executor.execute(context, asking("doze", note=str(tmp_path / "note"))))
    await eventually(lambda: "sleep-1" in world.steps._wake_at)
    context.cancelled.set()
    handle.cancel()
    assert failure(await handle).code == "interrupted"


async def test_no_more_processes_work_at_once_than_there_may_be(
    make: Make, world: World, tmp_path: Path
) -> None:
    executor = make(*PROCESS_TASKS, processes=1)
    go = tmp_path / "go"
    first = asyncio.create_task(call(executor, world, "wait_for_file", path=str(go), me=str(tmp_path / "me")))
    [pid] = await noted(tmp_path / "me")
    second = asyncio.create_task(call(executor, world, "where"))
    await asyncio.sleep(0)
    assert not second.done()
    go.touch()
    assert result(await first) == result(await second)["pid"] == pid


async def test_closing_ends_idle_processes(make: Make, world: World) -> None:
    executor = make(*PROCESS_TASKS)
    pid = result(await call(executor, world, "where"))["pid"]
    await executor.close()
    assert not is_alive(pid)


async def test_a_process_ends_when_its_worker_is_gone(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from tests.executors import functions\n"
        "from tests.executors.factories import make_context\n"
        "from engine.executors.function import FunctionExecutor\n"
        "from engine.functions.ports import Ports\n"
        "from engine.functions.registry import FunctionRegistry\n"
        "executor = FunctionExecutor(FunctionRegistry([functions.hang]), ports=lambda context: Ports())\n"
        "asking = {'function': 'hang', 'params': {'note': sys.argv[1]}}\n"
        "asyncio.run(executor.execute(make_context(), asking))\n"
    )
    note = tmp_path / "note"
    worker = subprocess.Popen([sys.executable, "-c", script, str(note)], cwd=ROOT)
    pid, *left = await noted(note)
    worker.kill()
    worker.wait()
    await eventually(lambda: not is_alive(pid))
    for started in left:  # that is left to the worker's guardian
        os.kill(started, 9)


MAIN = """
import asyncio
import sys

from engine.errors import ConfigError
from engine.executors.function import FunctionExecutor
from engine.functions.decorator import task
from engine.functions.ports import Ports
from engine.functions.registry import FunctionRegistry
from tests.executors.factories import make_context

@task(run_in="process")
def who() -> list[str]:
    return [__name__, *sys.argv[1:]]

async def main() -> None:
    executor = FunctionExecutor(FunctionRegistry([who]), ports=lambda context: Ports())
    outcome = await executor.execute(make_context(), {"function": "who"})
    print(outcome)
    await executor.close()
"""


@pytest.mark.parametrize("as_module", [True, False])
def test_functions_of_the_main_module_run_in_processes(tmp_path: Path, as_module: bool) -> None:
    (tmp_path / "shop.py").write_text(f'{MAIN}\nif __name__ == "__main__":\n    asyncio.run(main())\n')
    how = ["-m", "shop"] if as_module else [str(tmp_path / "shop.py")]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    ended = subprocess.run(
        [sys.executable, *how, "a"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "['__mp_main__', 'a']" in ended.stdout, ended


def test_a_program_that_would_start_once_more_is_told_how_to_guard_itself(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(f"{MAIN}\nasyncio.run(main())\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "shop.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "config_error" in ended.stdout and 'if __name__ == "__main__":' in ended.stdout, ended


async def test_functions_that_cannot_be_imported_say_so(
    make: Make, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functions.square.function.call, "__module__", "gone_tomorrow")
    failed = failure(await call(make(functions.square), world, "square", n=1))
    assert failed.message == "ModuleNotFoundError: No module named 'gone_tomorrow'"
    assert ConfigError.code != failed.code
