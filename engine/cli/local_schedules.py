"""Schedules and functions of a database, as the API answers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from engine.api.workflows import wire
from engine.api.workflows.schedule_translation import (
    changes_of,
    next_times_of,
    schedule_of,
    schedules_of,
    spec_of,
)
from engine.api.workflows.workflow_translation import functions_of
from engine.cli.local_answers import data_of, now
from engine.cli.workflow_verbs import Data
from engine.errors import InvalidInput
from engine.model.json import Unstorable, check_storable
from engine.operations import functions, schedules
from engine.store.database import Database

S = TypeVar("S", bound=msgspec.Struct)


class LocalSchedules:
    """The verbs of `engine.cli.workflow_verbs`."""

    database: Database

    def schedules(self, *, workflow: str | None, is_enabled: bool | None, limit: int, offset: int) -> Data:
        is_paused = None if is_enabled is None else not is_enabled
        total, found = now(
            schedules.list_schedules(
                self.database, workflow=workflow, is_paused=is_paused, limit=limit, offset=offset
            )
        )
        return data_of(schedules_of(total, found, offset))

    def schedule(self, schedule: str) -> Data:
        return data_of(schedule_of(now(schedules.get(self.database, schedule))))

    def create_schedule(self, workflow: str, name: str, expression: str, **fields: Any) -> Data:
        wanted = _checked(
            {"workflow_id": workflow, "name": name, "expression": expression, **fields}, wire.ScheduleIn
        )
        return data_of(schedule_of(now(schedules.create(self.database, workflow, spec_of(wanted)))))

    def change_schedule(self, schedule: str, changes: Mapping[str, Any]) -> Data:
        given, is_paused = changes_of(_checked(changes, wire.ScheduleChangeIn))
        return data_of(
            schedule_of(now(schedules.change(self.database, schedule, given, is_paused=is_paused)))
        )

    def delete_schedule(self, schedule: str) -> Data:
        return data_of(wire.Message("schedule deleted", now(schedules.delete(self.database, schedule))))

    def trigger_schedule(self, schedule: str) -> Data:
        accepted = now(schedules.trigger(self.database, schedule))
        return data_of(wire.Started(str(accepted.run_id), "instance started"))

    def next_times(self, schedule: str, count: int = 10) -> Data:
        return data_of(next_times_of(*now(schedules.next_times(self.database, schedule, count))))

    def functions(self, *, is_missing: bool | None, limit: int, offset: int) -> Data:
        total, found = now(
            functions.list_functions(self.database, is_missing=is_missing, limit=limit, offset=offset)
        )
        return data_of(functions_of(total, found, offset))


def _checked(document: Mapping[str, Any], kind: type[S]) -> S:
    """What a server would read. Raises `InvalidInput` in its words."""
    try:
        check_storable(document.get("params"))
    except Unstorable as error:
        raise InvalidInput(f"invalid JSON: params: {error}") from None
    try:
        return msgspec.convert(dict(document), kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"invalid JSON: {error}") from None
