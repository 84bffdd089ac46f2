"""Runs a whitelisted program directly, or a script through a shell (contract section 6)."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from engine.executors.base import TaskContext
from engine.executors.params import Params, ParamsExecutor
from engine.executors.process import ProcessResult, find_program, refuse_nul, resolve_program, run_process
from engine.executors.text import reason, shorten
from engine.model.outcomes import Failed, Outcome, Succeeded

_ALLOWED = (
    "awk cat curl date dig dir echo find grep head hostname ls ping pwd sed sort tail type uname uniq "
    "wc wget where whoami"
)
WHITELIST = frozenset(_ALLOWED.split())
# `find -exec`, awk's system(), sed's e, `sort --compress-program`: with these a client who may not send
# scripts would run any all the same; curl, uniq and wget write files anywhere.
AS_GOOD_AS_SCRIPTS = frozenset({"awk", "curl", "find", "sed", "sort", "uniq", "wget"})
WAY_OUT = {
    "allowed": sorted(WHITELIST),
    "hint": "any other program needs a script, or the operator's setting shell_policy=open",
}
RUNNERS = {
    "sh": ("/bin/sh", "-c"),
    "powershell": ("powershell", "-NoProfile", "-NonInteractive", "-Command"),
    "cmd": ("cmd", "/C"),
}


class ShellParams(Params):
    command: str = Field(
        "", description="a program of the whitelist, started without a shell; needed unless there is a script"
    )
    args: list[str] = Field([], description="arguments of `command`")
    dir: str = Field("", description="working directory, seen from the file root, which is the default")
    runner: str = Field(
        "auto",
        description="what runs the script; `auto` is `sh`",
        json_schema_extra={"enum": ["auto", *RUNNERS]},
    )
    script: str = Field("", description="text for a shell; with it, `command` and `args` do not count")

    @property
    def is_script(self) -> bool:
        return bool(self.script.strip())

    @property
    def resolved_runner(self) -> str:
        """The runner as results report it."""
        runner = self.runner.strip().lower()
        if not self.is_script:
            return "direct"
        return "sh" if runner in ("", "auto") else runner

    def require(self) -> None:
        refuse_nul(self.command, self.dir, self.script, *self.args)
        if self.is_script:
            self._require_script_runner()
        elif not self.command.strip():
            raise ValueError("either script or command is required")

    def _require_script_runner(self) -> None:
        sent = shorten(self.runner, 100)
        if self.resolved_runner == "direct":
            raise ValueError(f'runner "{sent}" cannot be used with script')
        if self.resolved_runner not in RUNNERS:
            raise ValueError(f'invalid runner "{sent}" (supported for script: auto, powershell, cmd, sh)')


class ShellExecutor(ParamsExecutor[ShellParams]):
    kind = "shell"
    params_type = ShellParams

    async def perform(self, context: TaskContext, params: ShellParams) -> Outcome:
        refusal = self._refusal(params)
        if refusal is not None:
            return refusal
        try:
            cwd = self._directory(params.dir)
            ended = await run_process(context, _argv(params, cwd), settings=self.settings, cwd=cwd)
        except ValueError as error:
            return _never_started(params, str(error))
        except OSError as error:
            return _never_started(params, f"fork/exec {shorten(params.command, 100)}: {reason(error)}")
        return _outcome(params, ended)

    def _refusal(self, params: ShellParams) -> Failed | None:
        if params.is_script:
            if self.settings.allow_scripts:
                return None
            return Failed(
                "scripts are switched off here; the operator can allow them with the setting allow_scripts"
            )
        if self._is_open:
            return None
        base = re.split(r"[/\\]", params.command)[-1]
        # A path is accepted only if it is what the bare name means: /tmp/evil/ls is another program.
        if base not in WHITELIST or params.command not in (base, find_program(base)):
            # The contract fixes the message to its last character, so the way out stands in the details.
            return Failed(f'command "{shorten(base, 100)}" is not in the allowed whitelist', details=WAY_OUT)
        if base in AS_GOOD_AS_SCRIPTS and not self.settings.allow_scripts:
            return Failed(
                f'command "{base}" can start programs or write files; that needs the setting allow_scripts'
            )
        return None

    @property
    def _is_open(self) -> bool:
        return self.settings.shell_policy.strip().lower() == "open"

    def _directory(self, wanted: str) -> Path:
        """Raises `ValueError`: without this look, a missing directory would read as a missing program."""
        directory = self.settings.file_root / wanted
        if not directory.is_dir():
            state = "not a directory" if directory.exists() else "no such file or directory"
            raise ValueError(f"chdir {shorten(wanted or str(directory), 200)}: {state}")
        return directory


def _argv(params: ShellParams, cwd: Path) -> list[str]:
    if params.is_script:
        program, *options = RUNNERS[params.resolved_runner]
        return [resolve_program(program, cwd), *options, params.script]
    return [resolve_program(params.command, cwd), *params.args]


def _outcome(params: ShellParams, ended: ProcessResult) -> Outcome:
    result = _result(params, ended.stdout, ended.stderr, ended.exit_code)
    if ended.returncode == 0:
        return Succeeded(result, usage=ended.usage)
    return Failed(f"command failed: {ended.description}", result=result, usage=ended.usage)


def _never_started(params: ShellParams, why: str) -> Failed:
    return Failed(f"command failed: {why}", result=_result(params, "", "", -1))


def _result(params: ShellParams, stdout: str, stderr: str, exit_code: int) -> dict[str, str | int]:
    return {"stdout": stdout, "stderr": stderr, "exit_code": exit_code, "runner": params.resolved_runner}
