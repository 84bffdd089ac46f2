"""Counts the words of a text."""

from __future__ import annotations

from typing import Any, ClassVar

from engine.executors.base import ExecutorSettings, TaskContext
from engine.model.outcomes import Failed, Outcome, Succeeded


class WordCountExecutor:
    kind: ClassVar[str] = "wordcount"
    category: ClassVar[str] = "text"

    def __init__(self, settings: ExecutorSettings) -> None:
        """`settings` says what the operator allows; counting words needs no permission."""

    def check(self, params: Any) -> None:
        if not isinstance(params, dict) or not isinstance(params.get("text"), str):
            raise ValueError('params must be an object with a text in "text"')

    async def execute(self, context: TaskContext, params: Any) -> Outcome:
        try:
            self.check(params)
        except ValueError as error:
            # Trying again cannot help, so the engine is told not to.
            return Failed(str(error), code="invalid_input", is_permanent=True)
        words = params["text"].split()
        context.log("log", f"{len(words)} words")
        return Succeeded({"words": len(words), "different": len(set(words))})
