"""Running, bounding and ending processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engine.executors import child
from engine.executors.base import ExecutorSettings, ProcessLimits
from engine.executors.child import MARK
from engine.executors.process import ProcessResult, kill_marked, run_process
from tests.executors.factories import Recorder, eventually, is_alive, make_context, make_settings, number_in

pytestmark = pytest.mark.anyio


async def run_script(
    script: str, settings: ExecutorSettings, recorder: Recorder | None = None, **options: bool
) -> ProcessResult:
    return await run_process(make_context(recorder), ["/bin/sh", "-c", script], settings=settings, **options)


def start(script: str, settings: ExecutorSettings) -> asyncio.Task[ProcessResult]:
    return asyncio.create_task(run_script(script, settings))


async def cancel(handle: asyncio.Task[ProcessResult]) -> None:
    handle.cancel()
    with pytest.raises(asyncio.CancelledError):
        await handle


async def test_output_and_exit_status_come_back(settings: ExecutorSettings) -> None:
    ended = await run_script("echo out; echo err >&2; exit 3", settings)
    assert (ended.stdout, ended.stderr, ended.exit_code) == ("out\n", "err\n", 3)
    assert ended.description == "exit status 3"


async def test_merged_streams_keep_their_order(settings: ExecutorSettings) -> None:
    ended = await run_script("echo 1; echo 2 >&2; echo 3", settings, merge_streams=True)
    assert (ended.stdout, ended.stderr) == ("1\n2\n3\n", "")


@pytest.mark.parametrize(
    ("name", "text"), [("KILL", "killed"), ("TERM", "terminated"), ("SEGV", "segmentation fault")]
)
async def test_a_process_ended_by_a_signal_has_no_exit_status(
    settings: ExecutorSettings, name: str, text: str
) -> None:
    ended = await run_script(f"kill -{name} $$", settings)
    assert (ended.exit_code, ended.description) == (-1, f"signal: {text}")


async def test_the_environment_holds_markers_and_nothing_of_the_worker(
    settings: ExecutorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_DATABASE_URL", "postgresql://secret")
    context = make_context(name="load", attempt=4)
    ended = await run_process(
        context, ["/usr/bin/env"], settings=settings, env={"COLOUR": "red", MARK: "forged"}
    )
    seen = dict(line.split("=", 1) for line in ended.stdout.splitlines())
    assert "secret" not in ended.stdout
    assert seen.items() >= {**context.environment, "COLOUR": "red"}.items()
    assert seen["ENGINE_ATTEMPT"] == "4"


async def test_stdin_is_empty_and_only_our_descriptors_are_inherited(settings: ExecutorSettings) -> None:
    with open(os.devnull) as leak:
        os.set_inheritable(leak.fileno(), True)
        script = "import os; print(repr(os.read(0, 1)), len(os.listdir('/proc/self/fd')))"
        ended = await run_process(make_context(), [sys.executable, "-c", script], settings=settings)
    assert ended.stdout == "b'' 5\n"  # 0 to 2, the lifeline, and the folder that is being listed


async def test_the_process_leads_its_own_session(settings: ExecutorSettings) -> None:
    script = "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))"
    ended = await run_process(make_context(), [sys.executable, "-c", script], settings=settings)
    assert ended.stdout == "True\n"


async def test_output_beyond_the_limit_is_dropped_and_counted(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, limits=ProcessLimits(output_bytes=10))
    recorder = Recorder()
    ended = await run_script("head -c 5000000 /dev/zero | tr '\\0' x; echo e >&2", settings, recorder)
    assert ended.stdout == "x" * 10 + "\n[... truncated, 4999990 bytes dropped]"
    assert ended.stderr == "e\n"
    assert recorder.logged("stdout") == ended.stdout


async def test_bytes_that_are_no_text_are_replaced(settings: ExecutorSettings) -> None:
    ended = await run_script(r"printf 'a\377b\000c'", settings)
    assert ended.stdout == "a\ufffdb\ufffdc"


async def test_output_is_logged_while_the_process_runs(settings: ExecutorSettings, tmp_path: Path) -> None:
    recorder = Recorder()
    os.mkfifo(tmp_path / "gate")
    handle = asyncio.create_task(run_script("echo first; read x < gate; printf last", settings, recorder))
    await eventually(lambda: recorder.logged("stdout") == "first\n")
    assert not handle.done()
    await asyncio.to_thread((tmp_path / "gate").write_text, "go\n")
    await handle
    assert recorder.logged("stdout") == "first\nlast"


async def test_usage_counts_the_time_of_the_whole_tree(settings: ExecutorSettings) -> None:
    burn = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.2: pass'; true"
    ended = await run_script(burn, settings)
    assert ended.usage.cpu_ms is not None
    assert ended.usage.cpu_ms >= 190


async def test_peak_memory_is_that_of_the_child(settings: ExecutorSettings) -> None:
    grow = ["-c", "x = bytearray(600 * 1024 * 1024)"]
    large = await run_process(make_context(), [sys.executable, *grow], settings=settings)
    assert large.usage.max_rss_kib is not None
    assert large.usage.max_rss_kib > 600 * 1024
    small = await run_script("true", settings)
    assert small.usage.max_rss_kib is None  # Linux would report the worker's own


async def test_a_program_that_is_missing_is_an_error(settings: ExecutorSettings) -> None:
    with pytest.raises(FileNotFoundError):
        await run_process(make_context(), ["/nowhere/x"], settings=settings)


async def test_arguments_that_are_too_long_are_an_error(settings: ExecutorSettings) -> None:
    with pytest.raises(OSError, match="Argument list too long"):
        await run_process(make_context(), ["/bin/echo", "x" * 3_000_000], settings=settings)


async def test_no_descriptor_is_left_open(settings: ExecutorSettings) -> None:
    await run_script("true", settings)
    before = psutil.Process().num_fds()
    for script in ("true", "exit 3", "sleep 300 & echo hi"):
        await run_script(script, settings)
    with pytest.raises(FileNotFoundError):
        await run_process(make_context(), ["/nowhere/x"], settings=settings)
    assert psutil.Process().num_fds() == before


# --- limits


async def test_limits_hold_before_the_program_runs(tmp_path: Path) -> None:
    limits = ProcessLimits(memory_mib=512, cpu_seconds=7, processes=999)
    script = (
        "import resource as r; print([r.getrlimit(k)[0] for k in "
        "(r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_NPROC, r.RLIMIT_CORE)])"
    )
    settings = make_settings(tmp_path, limits=limits)
    ended = await run_process(
        make_context(), [sys.executable, "-c", script, "a b", "$(id)"], settings=settings
    )
    assert ended.stdout == f"[{512 * 1024 * 1024}, 7, 999, 0]\n"


async def test_too_much_memory_ends_the_program_not_the_worker(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, limits=ProcessLimits(memory_mib=200))
    argv = [sys.executable, "-c", "bytearray(10**9)"]
    ended = await run_process(make_context(), argv, settings=settings)
    assert ended.exit_code == 1
    assert "MemoryError" in ended.stderr


async def test_too_much_cpu_time_ends_the_program(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, limits=ProcessLimits(cpu_seconds=1))
    ended = await run_process(make_context(), [sys.executable, "-c", "while True: pass"], settings=settings)
    assert ended.exit_code == -1


async def test_arguments_reach_the_program_unchanged_behind_limits(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, limits=ProcessLimits(cpu_seconds=100))
    argv = ["/usr/bin/printf", "%s|", "; id", "$(id)", "a b", "", "x\ny"]
    assert (await run_process(make_context(), argv, settings=settings)).stdout == "; id|$(id)|a b||x\ny|"


# --- ending trees

ESCAPE = "setsid sh -c 'sleep 300 {to} & echo $! > pid' & wait"


@pytest.mark.parametrize("to", ["", ">/dev/null 2>&1"])
async def test_cancel_kills_a_grandchild_that_left_the_session(
    settings: ExecutorSettings, tmp_path: Path, to: str
) -> None:
    handle = start(ESCAPE.format(to=to) + "; sleep 300", settings)
    pid = await eventually(lambda: number_in(tmp_path / "pid"))
    await cancel(handle)
    assert not is_alive(pid)


async def test_cancel_kills_what_ignores_termination(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, kill_grace_seconds=0.1)
    handle = start("trap '' TERM; echo $$ > pid; while :; do sleep 1; done", settings)
    pid = await eventually(lambda: number_in(tmp_path / "pid"))
    await cancel(handle)
    assert not is_alive(pid)


async def test_cancel_lets_a_process_clean_up(settings: ExecutorSettings, tmp_path: Path) -> None:
    script = "trap 'echo bye > bye; exit' TERM; echo $$ > pid; while :; do sleep 0.01; done"
    handle = start(script, settings)
    await eventually(lambda: number_in(tmp_path / "pid"))
    await cancel(handle)
    assert (tmp_path / "bye").read_text() == "bye\n"


async def test_cancel_kills_a_connected_child_without_the_mark(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, kill_grace_seconds=0.1)
    handle = start("env -i setsid sh -c 'trap \"\" TERM; echo $$ > pid; exec sleep 300'", settings)
    pid = await eventually(lambda: number_in(tmp_path / "pid"))
    await cancel(handle)
    assert not is_alive(pid)


WIPED = "env -i setsid sh -c 'sleep 300 {to} & echo $! > pid' & wait"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("to", ["", ">/dev/null 2>&1"])
async def test_an_orphan_without_the_mark_ends_with_the_task(
    settings: ExecutorSettings, tmp_path: Path, to: str
) -> None:
    await run_script(WIPED.format(to=to), settings)
    pid = number_in(tmp_path / "pid") or 0
    await eventually(lambda: not is_alive(pid))  # its pipes end a moment before it does


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
async def test_cancel_kills_an_orphan_without_the_mark(settings: ExecutorSettings, tmp_path: Path) -> None:
    handle = start(WIPED.format(to="") + "; sleep 300", settings)
    pid = await eventually(lambda: number_in(tmp_path / "pid"))
    await cancel(handle)
    await eventually(lambda: not is_alive(pid))


async def test_a_second_cancel_does_not_leave_the_tree_behind(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, kill_grace_seconds=0.2)
    handle = start("trap '' TERM; echo $$ > pid; while :; do sleep 1; done", settings)
    pid = await eventually(lambda: number_in(tmp_path / "pid"))
    handle.cancel()
    await asyncio.sleep(0)
    await cancel(handle)
    assert not is_alive(pid)


async def test_cancel_before_the_start_starts_nothing_that_stays(
    settings: ExecutorSettings, tmp_path: Path
) -> None:
    context = make_context()
    argv = ["/bin/sh", "-c", "sleep 300"]
    handle = asyncio.create_task(run_process(context, argv, settings=settings))
    await asyncio.sleep(0)
    await cancel(handle)
    assert kill_marked(MARK, context.environment[MARK]) == 0


async def test_a_background_process_does_not_hold_the_task(
    settings: ExecutorSettings, tmp_path: Path
) -> None:
    ended = await asyncio.wait_for(run_script("sleep 300 & echo $! > pid; echo hi", settings), 20)
    assert (ended.stdout, ended.exit_code) == ("hi\n", 0)
    assert not is_alive(number_in(tmp_path / "pid") or 0)


async def test_a_daemon_with_its_own_output_ends_with_the_task(
    settings: ExecutorSettings, tmp_path: Path
) -> None:
    script = "setsid sh -c 'sleep 300 </dev/null >/dev/null 2>&1 & echo $! > pid'; echo hi"
    ended = await run_script(script, settings)
    assert (ended.stdout, ended.exit_code) == ("hi\n", 0)
    assert not is_alive(number_in(tmp_path / "pid") or 0)


async def test_output_of_a_background_process_that_ends_soon_is_kept(
    settings: ExecutorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "DRAIN_SECONDS", 20)
    # The gate is closed by the end of the main process.
    script = "mkfifo gate; (read x < gate; echo late) & exec 9> gate; echo hi"
    assert (await run_script(script, settings)).stdout == "hi\nlate\n"


async def test_a_process_that_closed_its_output_is_waited_for(
    settings: ExecutorSettings, tmp_path: Path
) -> None:
    script = "import os, time; os.closerange(0, 64); time.sleep(0.3); os._exit(5)"
    ended = await run_process(make_context(), [sys.executable, "-c", script], settings=settings)
    assert ended.exit_code == 5


async def test_stopping_the_parent_is_impossible_to_survive(
    settings: ExecutorSettings, tmp_path: Path
) -> None:
    handle = start("echo $$ > pid; kill -STOP $$", settings)
    pid = await eventually(lambda: number_in(tmp_path / "pid"))
    await eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    handle.cancel()
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await handle
    assert not is_alive(pid)


def test_kill_marked_finds_every_bearer_and_nobody_else(tmp_path: Path) -> None:
    def sleeper(value: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["sleep", "300"], env={"ENGINE_SESSION": value}, start_new_session=True)

    value = f"test-{os.getpid()}"
    ours = [sleeper(value), sleeper(value)]
    other = sleeper(value + "0")
    try:
        assert kill_marked("ENGINE_SESSION", value) == 2
        assert [process.wait() for process in ours] == [-signal.SIGKILL] * 2
        assert is_alive(other.pid)
        assert kill_marked("ENGINE_SESSION", value) == 0
    finally:
        for process in [*ours, other]:
            process.kill()
            process.wait()


def test_kill_marked_works_while_an_ancestor_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: psutil.Process) -> psutil.Process:
        raise psutil.NoSuchProcess(self.pid)

    monkeypatch.setattr(psutil.Process, "parent", gone)
    assert kill_marked("ENGINE_SESSION", "nobody's") == 0


def test_kill_marked_spares_the_caller_and_its_ancestors() -> None:
    call = (
        "from engine.executors.processes import kill_marked; print(kill_marked('ENGINE_SESSION', 'self-1'))"
    )
    script = f"""
import subprocess, sys
print(subprocess.run([sys.executable, "-c", {call!r}], capture_output=True, text=True).stdout.strip())
"""
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "ENGINE_SESSION": "self-1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout == "0\n"


def test_killing_needs_no_heavy_imports() -> None:
    script = (
        "import sys, engine.executors.processes\n"
        "heavy = ('pydantic', 'httpx', 'sqlalchemy', 'asyncio', 'dns')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
