"""The kind `cli-skills`: runs any program directly, without a whitelist (contract section 7)."""

from __future__ import annotations

from pydantic import Field

from engine.executors.base import TaskContext
from engine.executors.params import Params, ParamsExecutor
from engine.executors.process import refuse_nul, resolve_program, run_process
from engine.executors.text import reason, shorten
from engine.model.outcomes import Failed, Outcome, Succeeded


class CliSkillsParams(Params):
    required = ("command",)

    command: str = Field("", description="any program, by name or by path seen from the file root")
    args: list[str] | None = Field(None, description="its arguments")

    def require(self) -> None:
        if not self.command.strip():
            raise ValueError("command is required")
        refuse_nul(self.command, *(self.args or []))


class CliSkillsExecutor(ParamsExecutor[CliSkillsParams]):
    kind = "cli-skills"
    category = "cli-skills"
    noun = "input"
    params_type = CliSkillsParams

    async def perform(self, context: TaskContext, params: CliSkillsParams) -> Outcome:
        if not self.settings.allow_cli_skills:
            return Failed(
                "cli-skills is switched off here; the operator can allow it with the setting allow_cli_skills"
            )
        result = {"command": params.command, "args": params.args, "output": ""}
        try:
            argv = [resolve_program(params.command, self.settings.file_root), *(params.args or [])]
            ended = await run_process(context, argv, settings=self.settings, merge_streams=True)
        except ValueError as error:
            return Failed(f"cli skill command failed: {error}", result=result)
        except OSError as error:
            why = f"fork/exec {shorten(params.command, 100)}: {reason(error)}"
            return Failed(f"cli skill command failed: {why}", result=result)
        result["output"] = ended.stdout
        if ended.returncode != 0:
            why = ended.description
            return Failed(f"cli skill command failed: {why}", result=result, usage=ended.usage)
        return Succeeded(result, usage=ended.usage)
