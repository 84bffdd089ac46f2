"""Durable steps of a task, its sleeps, and the signals it waits for. Every write is fenced by the lease."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.errors import Conflict, InvalidInput, LeaseLost, NotFound
from engine.model.graph import check_name
from engine.model.json import JSON, MAX_DEPTH, check_storable
from engine.model.records import Lease
from engine.model.states import FINAL_RUN_STATES
from engine.model.tally import Change
from engine.store import queries, runs, steps
from engine.store.bookkeeping import record
from engine.store.database import Database, Transaction
from engine.store.steps import Step
from engine.store.workers import holds

MAX_PAYLOAD_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Signal:
    number: int
    payload: JSON


async def find(database: Database, lease: Lease, name: str) -> Step | None:
    """A step of this task that is kept, from whichever attempt."""
    return await database.read(steps.find, lease.task_id, name)


async def save(
    database: Database, lease: Lease, name: str, result: JSON, *, max_depth: int = MAX_DEPTH
) -> None:
    """Keep what a step returned; the first word counts. Raises `LeaseLost`, `Unstorable`."""
    check_storable(result, max_depth=max_depth)
    if not await database.run(steps.save, lease, name, result):
        raise _lost(lease)


async def until(database: Database, lease: Lease, name: str, seconds: float) -> float:
    """Seconds left until `seconds` after the first call with this name. Raises `LeaseLost`."""
    return await database.run(_until, lease, name, seconds)


def _until(tx: Transaction, lease: Lease, name: str, seconds: float) -> float:
    found = steps.find(tx, lease.task_id, name)
    if found is None:
        if not steps.save(tx, lease, name, None, seconds=seconds):
            raise _lost(lease)
        found = steps.find(tx, lease.task_id, name)
    assert found is not None
    return found.seconds_left or 0.0


async def take_signal(database: Database, lease: Lease, step: str, name: str) -> Signal | None:
    """The signal that this step took or, if there is one, takes now. Raises `LeaseLost`."""
    return await database.run(_take_signal, lease, step, name)


def _take_signal(tx: Transaction, lease: Lease, step: str, name: str) -> Signal | None:
    found = steps.find(tx, lease.task_id, step)
    if found is not None:
        return Signal(found.result["signal"], found.result["payload"])
    tx.dialect.own_runs(tx, [lease.run_id])
    if not holds(tx, lease):
        raise _lost(lease)
    taken = steps.take(tx, lease, name)
    if taken is None:
        return None
    number, payload = taken
    steps.save(tx, lease, step, {"signal": number, "payload": payload})
    return Signal(number, payload)


async def send_signal(
    database: Database, run_id: int, name: str, payload: JSON = None, *, actor: str = "local"
) -> int:
    """Send a signal to a run; one task that waits for it, now or later, goes on. Returns its number.

    Raises `NotFound`, `Conflict` if the run has ended, `InvalidInput`.
    """
    check_name(name, "signal name")
    try:
        check_storable(payload, max_values=MAX_PAYLOAD_BYTES)
    except ValueError as error:
        raise InvalidInput(f"the payload cannot be stored: {error}") from None
    return await database.run(_send_signal, run_id, name, payload, actor=actor)


def _send_signal(tx: Transaction, run_id: int, name: str, payload: JSON) -> int:
    row: Any = runs.own(tx, run_id)
    if row is None:
        raise NotFound(f"run not found: {run_id}")
    if row.state in FINAL_RUN_STATES:
        raise Conflict(f"run {run_id} is {row.state}; nobody can wait for a signal any more")
    number = steps.send(tx, run_id, name, payload)
    record(tx, [Change(run_id, "signalled", detail={"name": name, "number": number})])
    return number


async def list_signals(
    database: Database, run_id: int, *, limit: int | None = None, offset: int = 0
) -> list[Any]:
    """Signals of a run, oldest first: (number, name, payload, at, actor, taken_by). Raises `NotFound`."""
    return await database.read(_list_signals, run_id, limit, offset)


def _list_signals(tx: Transaction, run_id: int, limit: int | None, offset: int) -> list[Any]:
    if queries.get_run(tx, run_id) is None:
        raise NotFound(f"run not found: {run_id}")
    return steps.list_signals(tx, run_id, limit=limit, offset=offset)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"attempt {lease.attempt} of task {lease.name!r} is no longer current")
