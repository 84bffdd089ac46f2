"""The outermost shell: help, version, completion, and how errors end."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import click
import pytest
from click.testing import Result

from engine import __version__
from engine.cli import COMMANDS, output, program
from engine.cli.program import exit_code, guarded
from engine.errors import ConfigError, Conflict, EngineError, InvalidInput, NotFound, StoreUnavailable

Call = Callable[..., Result]
DOCS = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    for name, (module, _) in COMMANDS.items():
        command = getattr(importlib.import_module(module), name)
        if isinstance(command, click.Group):
            for each in command.commands.values():
                yield f"{name} {each.name}", each
        else:
            yield name, command


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from engine.cli import program\n"
        "try: program(sys.argv[1:], prog_name='task-engine')\n"
        "except SystemExit: pass\n"
        "heavy = {'sqlalchemy', 'litestar', 'alembic', 'httpx', 'uvicorn', 'psycopg'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for arguments in (["--help"], ["version"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_help_lists_every_command(call: Call) -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert all(f" {name} " in result.stdout for name in COMMANDS)
    for name in COMMANDS:
        assert call(name, "--help").exit_code == 0


def test_every_command_and_option_is_explained() -> None:
    for name, command in commands():
        assert command.help, name
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (name, parameter.name)


def test_every_command_that_prints_facts_offers_json() -> None:
    without = {"server start", "worker start"}
    for name, command in commands():
        assert name in without or any("--json" in parameter.opts for parameter in command.params), name


def test_every_command_is_documented_with_its_options() -> None:
    text = DOCS.read_text()
    for name, command in commands():
        heading = f"\n### `task-engine {name}`\n"
        assert heading in text, name
        section = text.partition(heading)[2].partition("\n### ")[0]
        assert f"task-engine {name}" in section.partition("```bash")[2], f"{name} has no example"
        shared = text.partition("## Shared options")[2].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{parameter.opts[0]}" in section + shared, (name, parameter.opts[0])


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 124, 130, 141, 143])
def test_exit_codes_are_documented(code: int) -> None:
    assert f"| {code} |" in DOCS.read_text()


def test_version(call: Call) -> None:
    assert call("version").stdout == call("--version").stdout == f"task-engine {__version__}\n"
    assert json.loads(call("version", "--json").stdout)["version"] == __version__


def test_shell_completion_knows_the_commands() -> None:
    environment = {
        "_TASK_ENGINE_COMPLETE": "bash_complete",
        "COMP_WORDS": "task-engine ru",
        "COMP_CWORD": "1",
    }
    done = run(env={**os.environ, **environment})
    assert done.stdout.split() == ["plain,run", "plain,runs"]
    environment["COMP_WORDS"], environment["COMP_CWORD"] = "task-engine runs ca", "2"
    assert run(env={**os.environ, **environment}).stdout.split() == ["plain,cancel"]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run exam", "file,exam"),
        ("task submit exam", "file,exam"),
        ("runs list --config exam", "file,exam"),
        ("runs list --data-dir exam", "dir,exam"),
    ],
)
def test_shell_completion_offers_files(words: str, offered: str) -> None:
    environment = {
        "_TASK_ENGINE_COMPLETE": "bash_complete",
        "COMP_WORDS": f"task-engine {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    assert run(env={**os.environ, **environment}).stdout.strip() == offered


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("x"), 2),
        (ConfigError("x"), 2),
        (StoreUnavailable("x"), 3),
        (NotFound("x"), 1),
        (Conflict("x"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code(error: EngineError, code: int) -> None:
    assert exit_code(error) == code


def test_an_unexpected_error_is_one_line_unless_debugging(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("odd")

    assert guarded(fail) == 1
    assert capsys.readouterr().err.splitlines()[0] == "error: RuntimeError: odd"
    monkeypatch.setenv("ENGINE_DEBUG", "1")
    with pytest.raises(RuntimeError, match="odd"):
        guarded(fail)


def test_a_mistake_shows_no_traceback_unless_debugging() -> None:
    assert run("run", "nowhere.yaml").stderr == "error: nowhere.yaml: No such file or directory\n"
    assert "Traceback" in run("--debug", "run", "nowhere.yaml").stderr


def test_what_the_system_refuses_is_said_in_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        raise OSError(28, "No space left on device", "somewhere")

    assert guarded(write) == 1
    assert capsys.readouterr().err == "error: No space left on device: somewhere\n"


def test_a_full_disk_under_the_output_is_no_fault_of_ours() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "engine", "version"], stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")


def test_an_interrupt_while_modules_are_loaded_is_quiet() -> None:
    code = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'rich_click': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from engine.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")


def test_the_installed_program_starts_at_the_same_place() -> None:
    project = tomllib.loads((DOCS.parents[1] / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {
        "task-engine": "engine.__main__:main",
        "task-engine-server": "engine.__main__:server",
    }


def test_a_command_that_is_nearly_one_gets_its_name(call: Call) -> None:
    assert "'runs'" in call("rusn", "list").stderr
    assert "'list'" in call("runs", "lst").stderr


def test_an_interrupt_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert guarded(interrupt) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "arguments", [("nope",), ("runs", "show", "x"), ("runs", "show", "-1"), ("task", "get")]
)
def test_wrong_usage_says_where_help_is(call: Call, arguments: tuple[str, ...]) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "--help" in result.stderr


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        ("<&- 2>&-", 0, b""),
        (">&-", 1, b"error: standard output is closed\n"),
        ("<&- >&- 2>&-", 1, b""),
    ],
)
def test_closed_standard_streams_are_survived(closed: str, code: int, said: bytes) -> None:
    for command in ("version", "version --json", "--help"):
        done = subprocess.run(
            f"{sys.executable} -m engine {command} {closed}", shell=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (code, said)


def test_what_runs_on_may_print_though_nobody_listens() -> None:
    said = "import engine.cli as c; c.prepare_streams(); c.let_output_go(); print(1)"
    done = subprocess.run(f"{sys.executable} -c '{said}' >&-", shell=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_arguments_that_are_no_text_are_survived() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine", "run", b"\xff.yaml"], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"No such file" in done.stderr


def test_a_very_long_argument_is_survived() -> None:
    done = run("run", "x" * 100_000)
    assert done.returncode == 2
    assert "File name too long" in done.stderr


def test_no_colours_without_a_terminal() -> None:
    assert "\x1b" not in run("--help").stdout


# --- how things look


def test_text_from_elsewhere_cannot_steer_the_terminal() -> None:
    assert output.clean("a\x1b[31mb\x07\u202ec\n\td") == "a\\x1b[31mb\\x07\\x202ec\n\td"


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        *[(0, "0ms"), (85, "85ms"), (999, "999ms"), (1200, "1.2s"), (59_940, "59.9s")],
        *[(60_000, "1m0s"), (150_000, "2m30s"), (3_900_000, "1h5m"), (90_000_000, "25h0m")],
    ],
)
def test_durations_read_well(milliseconds: int, text: str) -> None:
    assert output.duration(milliseconds) == text


def test_times_carry_their_offset() -> None:
    at = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    shown = datetime.strptime(output.moment(at), "%Y-%m-%d %H:%M:%S %z")
    assert shown == at
    assert output.between(at, at.astimezone(timezone(timedelta(hours=2))) + timedelta(seconds=1)) == 1000


def test_the_program_is_one_click_command() -> None:
    assert isinstance(program, click.Group)
