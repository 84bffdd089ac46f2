"""shell and cli-skills: what may run, and what comes back."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from engine.executors.base import ExecutorSettings
from engine.executors.cli_skills import CliSkillsExecutor
from engine.executors.process import find_program
from engine.executors.shell import AS_GOOD_AS_SCRIPTS, WAY_OUT, WHITELIST, ShellExecutor
from engine.model.outcomes import Failed, Outcome, Succeeded
from tests.executors.factories import (
    Recorder,
    eventually,
    is_alive,
    make_context,
    make_settings,
    number_in,
)

pytestmark = pytest.mark.anyio

NEVER_STARTED = {"stdout": "", "stderr": "", "exit_code": -1, "runner": "direct"}


async def shell(settings: ExecutorSettings, **params: Any) -> Outcome:
    return await ShellExecutor(settings).execute(make_context(), params)


def not_listed(command: str) -> Failed:
    """The message is ExecGo's to the last character."""
    return Failed(f'command "{command}" is not in the allowed whitelist', details=WAY_OUT)


async def cli(settings: ExecutorSettings, **params: Any) -> Outcome:
    return await CliSkillsExecutor(settings).execute(make_context(), params)


async def test_a_command_runs_directly_with_its_arguments_as_they_are(settings: ExecutorSettings) -> None:
    outcome = await shell(settings, command="echo", args=["$(id)", "; id", "a b", "x\ny", "*"])
    assert isinstance(outcome, Succeeded)
    expected = "$(id) ; id a b x\ny *\n"
    assert outcome.result == {"stdout": expected, "stderr": "", "exit_code": 0, "runner": "direct"}
    assert outcome.usage.cpu_ms is not None


async def test_a_failing_command_keeps_its_result(settings: ExecutorSettings) -> None:
    outcome = await shell(settings, command="ls", args=["missing"])
    assert isinstance(outcome, Failed)
    assert outcome.message == "command failed: exit status 2"
    assert outcome.result["exit_code"] == 2
    assert "missing" in outcome.result["stderr"]
    assert (outcome.code, outcome.source, outcome.is_permanent) == ("external_failure", "executor", False)


@pytest.mark.parametrize("runner", [None, "", "auto", "AUTO", "sh", " Sh "])
async def test_a_script_runs_in_the_shell(settings: ExecutorSettings, runner: str | None) -> None:
    outcome = await shell(settings, script="echo $((1+2)); exit 4", runner=runner, command="ignored")
    assert isinstance(outcome, Failed)
    assert outcome.message == "command failed: exit status 4"
    assert outcome.result == {"stdout": "3\n", "stderr": "", "exit_code": 4, "runner": "sh"}


async def test_a_script_ended_by_a_signal_has_exit_code_minus_one(settings: ExecutorSettings) -> None:
    outcome = await shell(settings, script="echo before; kill -9 $$")
    assert isinstance(outcome, Failed)
    assert outcome.message == "command failed: signal: killed"
    assert outcome.result == {"stdout": "before\n", "stderr": "", "exit_code": -1, "runner": "sh"}


@pytest.mark.parametrize("code", [126, 127, 255])
async def test_unusual_exit_codes_are_reported(settings: ExecutorSettings, code: int) -> None:
    outcome = await shell(settings, script=f"exit {code}")
    assert isinstance(outcome, Failed)
    assert outcome.result["exit_code"] == code


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "either script or command is required"),
        ({"command": "", "script": " \n"}, "either script or command is required"),
        ({"command": " "}, "either script or command is required"),
        ({"script": "id", "runner": "direct"}, 'runner "direct" cannot be used with script'),
        (
            {"script": "id", "runner": "bash"},
            'invalid runner "bash" (supported for script: auto, powershell, cmd, sh)',
        ),
        ({"command": "ls", "args": ["a\0b"]}, '"a b" contains a NUL character'),
        ({"command": "ls\0x"}, '"ls x" contains a NUL character'),
        ({"command": "ls", "dir": "a\0"}, '"a " contains a NUL character'),
    ],
)
async def test_what_may_not_run_is_refused(settings: ExecutorSettings, params: Any, message: str) -> None:
    assert await ShellExecutor(settings).execute(make_context(), params) == Failed(message)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("rm", "rm"),
        ("LS", "LS"),
        ("ls ", "ls "),
        ("/bin/sh", "sh"),
        ("..\\sh", "sh"),
        ("./ls", "ls"),
        ("../bin/ls", "ls"),
        ("\\ls", "ls"),
        ("/usr/bin/../bin/ls", "ls"),
    ],
)
async def test_what_is_not_on_the_whitelist_is_refused_with_the_way_out(
    settings: ExecutorSettings, command: str, shown: str
) -> None:
    assert await shell(settings, command=command) == not_listed(shown)
    assert set(WAY_OUT["allowed"]) == WHITELIST


async def test_a_program_that_only_has_a_whitelisted_name_is_refused(
    settings: ExecutorSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink("/bin/sh", tmp_path / "ls")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert await shell(settings, command=str(tmp_path / "ls"), args=["-c", "id"]) == not_listed("ls")
    bare = await shell(settings, command="ls", args=["-d", "."])
    assert isinstance(bare, Succeeded), "the worker's own PATH must not matter"


async def test_the_path_that_the_name_means_is_accepted(settings: ExecutorSettings) -> None:
    outcome = await shell(settings, command=find_program("echo"), args=["hi"])
    assert isinstance(outcome, Succeeded)


async def test_a_whitelisted_program_that_is_not_installed(settings: ExecutorSettings) -> None:
    missing = next(name for name in sorted(WHITELIST) if find_program(name) is None)
    outcome = await shell(settings, command=missing)
    assert outcome == Failed(
        f'command failed: exec: "{missing}": executable file not found in $PATH', result=NEVER_STARTED
    )


@pytest.mark.parametrize("policy", ["open", " OPEN "])
async def test_the_open_policy_runs_anything(tmp_path: Path, policy: str) -> None:
    settings = make_settings(tmp_path, shell_policy=policy)
    assert isinstance(await shell(settings, command="true"), Succeeded)
    outcome = await shell(settings, command="no-such-thing")
    assert isinstance(outcome, Failed)
    assert outcome.message == 'command failed: exec: "no-such-thing": executable file not found in $PATH'
    outcome = await shell(settings, command="/nowhere/x")
    assert outcome == Failed(
        "command failed: fork/exec /nowhere/x: no such file or directory", result=NEVER_STARTED
    )


async def test_under_the_open_policy_a_path_starts_at_dir(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy("/bin/sh", tmp_path / "in" / "tool")
    settings = make_settings(tmp_path, shell_policy="open")
    outcome = await shell(settings, command="./tool", args=["-c", "echo ran"], dir="in")
    assert isinstance(outcome, Succeeded)


async def test_a_file_that_is_no_program_cannot_start(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    outcome = await shell(make_settings(tmp_path, shell_policy="open"), command="./plain")
    assert isinstance(outcome, Failed)
    assert outcome.message == "command failed: fork/exec ./plain: permission denied"


async def test_the_other_policy_words_keep_the_whitelist(tmp_path: Path) -> None:
    outcome = await shell(make_settings(tmp_path, shell_policy="opened"), command="rm")
    assert outcome == not_listed("rm")


async def test_scripts_can_be_switched_off(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, allow_scripts=False)
    outcome = await shell(settings, script="id")
    assert isinstance(outcome, Failed)
    assert "allow_scripts" in outcome.message
    assert isinstance(await shell(settings, command="echo"), Succeeded)


@pytest.mark.parametrize("command", sorted(AS_GOOD_AS_SCRIPTS))
async def test_without_scripts_nothing_that_runs_scripts_is_allowed(tmp_path: Path, command: str) -> None:
    outcome = await shell(make_settings(tmp_path, allow_scripts=False), command=command)
    assert isinstance(outcome, Failed)
    assert "allow_scripts" in outcome.message


async def test_the_whitelist_allows_them_as_long_as_scripts_are_allowed(settings: ExecutorSettings) -> None:
    outcome = await shell(settings, command="awk", args=["BEGIN { print 6 * 7 }"])
    assert isinstance(outcome, Succeeded)
    assert outcome.result["stdout"] == "42\n"


async def test_dir_is_where_the_command_runs(settings: ExecutorSettings, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for wanted in ("sub", str(tmp_path / "sub")):
        outcome = await shell(settings, command="pwd", dir=wanted)
        assert isinstance(outcome, Succeeded)
        assert outcome.result["stdout"] == f"{tmp_path / 'sub'}\n"


async def test_without_dir_commands_run_where_files_are(settings: ExecutorSettings, tmp_path: Path) -> None:
    outcome = await shell(settings, command="pwd")
    assert isinstance(outcome, Succeeded)
    assert outcome.result["stdout"] == f"{tmp_path}\n"


@pytest.mark.parametrize(
    ("wanted", "why"), [("none", "no such file or directory"), ("file", "not a directory")]
)
async def test_a_dir_that_is_no_directory_is_named(
    settings: ExecutorSettings, tmp_path: Path, wanted: str, why: str
) -> None:
    (tmp_path / "file").touch()
    outcome = await shell(settings, command="ls", dir=wanted)
    assert outcome == Failed(f"command failed: chdir {wanted}: {why}", result=NEVER_STARTED)


async def test_arguments_that_are_too_long_fail_clearly(settings: ExecutorSettings) -> None:
    outcome = await shell(settings, command="echo", args=["x" * 3_000_000])
    assert isinstance(outcome, Failed)
    assert outcome.message == "command failed: fork/exec echo: argument list too long"


async def test_output_is_logged_as_it_comes(settings: ExecutorSettings) -> None:
    recorder = Recorder()
    await ShellExecutor(settings).execute(make_context(recorder), {"script": "echo a; echo b >&2"})
    assert (recorder.logged("stdout"), recorder.logged("stderr")) == ("a\n", "b\n")


@pytest.mark.parametrize("executor", [ShellExecutor, CliSkillsExecutor])
async def test_a_timeout_ends_the_whole_tree(
    settings: ExecutorSettings, tmp_path: Path, executor: Any
) -> None:
    script = "setsid sh -c 'sleep 300 & echo $! > pid' & wait; sleep 300"
    params = {"script": script} if executor is ShellExecutor else {"command": "sh", "args": ["-c", script]}
    handle = asyncio.create_task(executor(settings).execute(make_context(), params))
    pid = await eventually(lambda: number_in(tmp_path / "pid"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(handle, 0.01)
    assert not is_alive(pid)


async def test_a_cli_skill_runs_any_program_with_mixed_output(settings: ExecutorSettings) -> None:
    args = ["-c", "echo 1; echo 2 >&2; echo 3"]
    assert_result(
        await cli(settings, command="sh", args=args), {"command": "sh", "args": args, "output": "1\n2\n3\n"}
    )


async def test_a_cli_skill_without_arguments_reports_null(settings: ExecutorSettings) -> None:
    assert_result(await cli(settings, command="true"), {"command": "true", "args": None, "output": ""})


def assert_result(outcome: Outcome, result: Any) -> None:
    assert isinstance(outcome, Succeeded)
    assert outcome.result == result


async def test_a_failing_cli_skill_keeps_its_output(settings: ExecutorSettings) -> None:
    outcome = await cli(settings, command="sh", args=["-c", "echo x; exit 9"])
    assert isinstance(outcome, Failed)
    assert outcome.message == "cli skill command failed: exit status 9"
    assert outcome.result["output"] == "x\n"


async def test_a_missing_cli_skill_says_so(settings: ExecutorSettings) -> None:
    assert await cli(settings, command="nope") == Failed(
        'cli skill command failed: exec: "nope": executable file not found in $PATH',
        result={"command": "nope", "args": None, "output": ""},
    )
    outcome = await cli(settings, command="/nope")
    assert isinstance(outcome, Failed)
    assert outcome.message == "cli skill command failed: fork/exec /nope: no such file or directory"


async def test_cli_skill_input_is_checked(settings: ExecutorSettings) -> None:
    assert await cli(settings, command=" ") == Failed("command is required")
    outcome = await CliSkillsExecutor(settings).execute(make_context(), None)
    assert outcome == Failed("parse cli-skills input: a JSON object is required")


async def test_cli_skills_can_be_switched_off(tmp_path: Path) -> None:
    outcome = await cli(make_settings(tmp_path, allow_cli_skills=False), command="true")
    assert isinstance(outcome, Failed)
    assert "allow_cli_skills" in outcome.message
