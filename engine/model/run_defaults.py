"""What holds for workflows, their tasks and schedules that do not say it themselves (contract section 6)."""

from __future__ import annotations

from dataclasses import dataclass


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
