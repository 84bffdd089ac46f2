"""The client's verbs of schedules and functions, as the data objects of the server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.client.envelope import Data, Envelope, segment

SCHEDULES, FUNCTIONS = "/api/v1/schedules", "/api/v1/functions"


class Schedules(Envelope):
    """`schedule` is an id or a name."""

    def schedules(
        self,
        *,
        workflow: str | None = None,
        is_enabled: bool | None = None,
        limit: int = 20,
        offset: int = 0,
    ) -> Data:
        """By name."""
        return self._get(
            SCHEDULES,
            workflow_id=workflow,
            is_enabled=_word(is_enabled),
            limit=limit,
            offset=offset or None,
        )

    def schedule(self, schedule: str) -> Data:
        return self._get(f"{SCHEDULES}/{segment(schedule)}")

    def create_schedule(self, workflow: str, name: str, expression: str, **fields: Any) -> Data:
        """Run a workflow at these times.

        `fields` are `zone`, `params`, `overlap`, `catch_up` and `catch_up_limit`.
        """
        wanted = {"workflow_id": workflow, "name": name, "expression": expression, **fields}
        return self._send_data("POST", SCHEDULES, wanted)

    def change_schedule(self, schedule: str, changes: Mapping[str, Any]) -> Data:
        """Fields as of `create_schedule`, and `is_enabled`, which pauses or resumes it."""
        return self._send_data("PATCH", f"{SCHEDULES}/{segment(schedule)}", dict(changes))

    def delete_schedule(self, schedule: str) -> Data:
        """Instances that it started go on."""
        return self._send_data("DELETE", f"{SCHEDULES}/{segment(schedule)}")

    def trigger_schedule(self, schedule: str) -> Data:
        """Start an instance now, whatever its times, pause and overlap say."""
        return self._send_data("POST", f"{SCHEDULES}/{segment(schedule)}/trigger")

    def next_times(self, schedule: str, count: int = 10) -> Data:
        """When it fires next: in UTC, and in its own zone."""
        return self._get(f"{SCHEDULES}/{segment(schedule)}/next", count=count)

    def functions(self, *, is_missing: bool | None = None, limit: int = 20, offset: int = 0) -> Data:
        """By name. A missing one is one that no live worker has code for."""
        return self._get(FUNCTIONS, is_missing=_word(is_missing), limit=limit, offset=offset or None)


def _word(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()
