"""Does nothing, successfully. For joins, placeholders and tests."""

from __future__ import annotations

from pydantic import Field

from engine.executors.base import TaskContext
from engine.executors.params import Params, ParamsExecutor
from engine.model.json import JSON
from engine.model.outcomes import Outcome, Succeeded


class NoopParams(Params):
    message: str = Field("", description="repeated in the result")


_SILENT = NoopParams()


class NoopExecutor(ParamsExecutor[NoopParams]):
    kind = "noop"
    params_type = NoopParams

    def parse(self, params: JSON) -> NoopParams:
        return _SILENT if params is None or params == {} else super().parse(params)

    async def perform(self, context: TaskContext, params: NoopParams) -> Outcome:
        return Succeeded({"ok": True, "message": params.message})
