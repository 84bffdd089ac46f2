"""Signals and sagas of runs on the wire. Needs no web framework: programs that ask servers read it, too."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from engine.api.run_wire import RunTask
from engine.model.sagas import SagaState


class SignalIn(msgspec.Struct, forbid_unknown_fields=True):
    """`payload` is any JSON value."""

    payload: Any = None


class SkipIn(msgspec.Struct, forbid_unknown_fields=True):
    """`tasks` are the names of tasks whose compensations failed."""

    tasks: list[str]
    reason: str


class SignOffIn(msgspec.Struct, forbid_unknown_fields=True):
    reason: str


class SignalSent(msgspec.Struct):
    """Signals of a run are numbered 1, 2, 3 …"""

    run_id: int
    name: str
    number: int


class SignalOut(msgspec.Struct):
    """`taken_by` is the id of the task whose wait it ended."""

    number: int
    name: str
    payload: Any
    at: datetime
    actor: str
    taken_by: int | None


class Signals(msgspec.Struct):
    run_id: int
    signals: list[SignalOut]


class UndoOut(msgspec.Struct):
    """`is_unknown`: nobody knows how far the task came."""

    task: str
    kind: str
    params: Any
    is_unknown: bool


class CompensationTask(RunTask):
    """`is_skipped`: it failed, and nobody will run it again; by whose word and why."""

    is_skipped: bool
    skipped_by: str | None
    skip_reason: str | None


class Saga(msgspec.Struct):
    """`undos` says what would be undone if the run failed now, `compensations` what is or was undone."""

    run_id: int
    state: SagaState
    compensation_run_id: int | None
    undos: list[UndoOut]
    compensations: list[CompensationTask]
    signed_off_by: str | None
    reason: str | None
