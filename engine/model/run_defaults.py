"""What holds for workflows, their tasks and schedules that do not say it themselves (contract section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from engine.model.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class RunDefaults:
    """`timeout_ms` holds per attempt; `retry_count` attempts besides the first get tasks that ask for none.

    Waits between attempts that a task does not set itself begin with `retry_delay_ms` and double up to
    `max_retry_delay_ms`. `timezone` is the IANA zone of schedules that name none.
    """

    timeout_ms: int = 30_000
    retry_count: int = 0
    retry_delay_ms: int = 1_000
    max_retry_delay_ms: int = 5_000
    timezone: str = "UTC"


@dataclass(frozen=True, slots=True)
class FunctionOptions:
    """What a function says about tasks that call it; None where it says nothing."""

    timeout_ms: int | None = None
    retry: RetryPolicy | None = None
    queue: str | None = None
    priority: int | None = None
    limits: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        retry = None if self.retry is None else self.retry.to_json()
        every = {
            "timeout_ms": self.timeout_ms,
            "retry": retry,
            "queue": self.queue,
            "priority": self.priority,
            "limits": None if self.limits is None else dict(self.limits),
        }
        return {name: value for name, value in every.items() if value is not None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        retry = document.get("retry")
        return cls(**{**document, "retry": None if retry is None else RetryPolicy.from_json(retry)})


NO_OPTIONS = FunctionOptions()
