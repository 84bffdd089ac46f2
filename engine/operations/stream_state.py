"""Streaming tasks: where they stand, their batches, and events that are published to them."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import Conflict, Fault, InvalidInput, LeaseLost, NotFound, Overloaded
from engine.model import shapes
from engine.model.graph import check_name
from engine.model.json import JSON, check_storable
from engine.model.realtime import Pressure, RealtimeMode, RealtimeTask
from engine.model.records import Lease
from engine.model.states import FINAL_RUN_STATES
from engine.store import queries
from engine.store import stream_state as store
from engine.store.database import Database, Transaction
from engine.store.statement import json_text
from engine.streams.events import EventType, StreamEvent, StreamState
from engine.streams.ports import Batch, Standing, Stored

MAX_PAYLOAD_BYTES = 256 * 1024
MAX_RESULT_BYTES = 256 * 1024  # of a batch; a larger one is left out
_MAX_ERROR = 10_000
_RETRY_SECONDS = 1  # until somebody may have made room


# --- the attempt that holds the lease


async def open(database: Database, lease: Lease) -> Standing:
    """Where the stream goes on. Raises `LeaseLost`."""
    found = await database.run(store.open, lease)
    if found is None:
        raise _lost(lease)
    row, is_paused = found
    return Standing(
        offset=row.offset,
        sequence=row.sequence,
        received=row.received,
        processed=row.processed,
        failed=row.failed,
        dropped=row.dropped,
        batches=row.batches,
        gaps=row.gaps,
        is_first=row.opened_at is None,
        seen_at=row.seen_at,
        is_paused=is_paused,
    )


async def keep(
    database: Database, lease: Lease, payloads: Sequence[JSON], *, is_connected: bool = True
) -> int:
    """Store items that cannot be read again; returns the number of the first. Raises `LeaseLost`."""
    first = await database.run(store.keep, lease, payloads, is_connected)
    if first is None:
        raise _lost(lease)
    return first


async def waiting(database: Database, lease: Lease, after: int, limit: int) -> list[Stored]:
    found = await database.read(store.waiting, lease.task_id, after, limit)
    return [Stored(number, payload) for number, payload in found]


async def commit(
    database: Database, lease: Lease, batch: Batch, state: StreamState, *, is_connected: bool = True
) -> bool:
    """Record a batch. Returns whether the run is paused. Raises `LeaseLost`, and then nothing is recorded."""
    is_paused = await database.run(_commit, lease, batch, state, is_connected)
    if is_paused is None:
        raise _lost(lease)
    return is_paused


def _commit(
    tx: Transaction, lease: Lease, batch: Batch, state: StreamState, is_connected: bool
) -> bool | None:
    return store.commit(
        tx,
        lease,
        number=batch.number,
        first=batch.first,
        last=batch.last,
        size=batch.size,
        failed=batch.failed,
        dropped=batch.dropped,
        offset=batch.offset,
        result=_short(batch.result),
        error=None if batch.error is None else batch.error[:_MAX_ERROR],
        state=state.value,
        is_connected=is_connected,
    )


def _short(result: JSON) -> JSON:
    size = _bytes(result)
    return result if size <= MAX_RESULT_BYTES else {"omitted_bytes": size}


def _bytes(document: JSON) -> int:
    return len((json_text(document) or "").encode())


async def look(database: Database, lease: Lease) -> bool:
    """Whether the run is paused."""
    return await database.read(store.is_paused, lease.run_id)


async def tell(
    database: Database,
    lease: Lease,
    events: Sequence[StreamEvent],
    *,
    state: StreamState | None = None,
    gaps: int = 0,
    is_connected: bool = False,
    actor: str = "local",
) -> None:
    """Add events to the history of the run, as `stream.<type>`. Raises `LeaseLost`."""
    kept = [(f"stream.{event.type}", event.payload) for event in events]
    word = None if state is None else state.value
    if not await database.run(store.tell, lease, kept, word, gaps, is_connected, actor=actor):
        raise _lost(lease)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"attempt {lease.attempt} of task {lease.name!r} is no longer current")


# --- from outside


@dataclass(frozen=True, slots=True)
class Published:
    """`tasks` are the names of those that get the event, `dropped` of those that had no room for it."""

    id: str
    tasks: list[str]
    dropped: list[str]


async def publish(
    database: Database,
    run_id: int,
    type: str,
    payload: JSON = None,
    *,
    sender_id: int | None = None,
    actor: str = "local",
) -> Published:
    """Give an event to the event-driven tasks of a run that take its type; it is stored until they have.

    Raises `NotFound`, `Conflict` if the run has ended or no task takes it, `InvalidInput`, `Overloaded` if
    a task that does not drop events has no room for it: then nobody got it. If that is the task which sends
    it, nothing would ever make room while it waits: `Conflict`.
    """
    check_name(type, "event type")
    try:
        check_storable(payload, max_values=MAX_PAYLOAD_BYTES)
    except ValueError as error:
        raise InvalidInput(f"the payload cannot be stored: {error}") from None
    if _bytes(payload) > MAX_PAYLOAD_BYTES:
        raise InvalidInput(f"the payload has more than {MAX_PAYLOAD_BYTES} bytes")
    return await database.run(_publish, run_id, type, payload, sender_id, actor=actor)


def _publish(tx: Transaction, run_id: int, type: str, payload: JSON, sender_id: int | None) -> Published:
    tx.dialect.share_runs(tx, [run_id])
    run = queries.get_run(tx, run_id)
    if run is None:
        raise NotFound(f"run not found: {run_id}")
    if run.state in FINAL_RUN_STATES:
        raise Conflict(f"run {run_id} is {run.state}; nobody takes events any more")
    found = map(_Listener.of, store.realtime_tasks(tx, run_id))
    listeners = [listener for listener in found if listener is not None]
    takers = [each for each in listeners if each.takes(type)]
    if not takers:
        raise Conflict(f"no task of run {run_id} takes events of type {type!r}{_told(listeners)}")
    event = {"id": secrets.token_hex(16), "type": type, "payload": payload}
    dropped: list[str] = []
    for taker in takers:
        if store.room(tx, taker.task_id, taker.most):
            store.add(tx, taker.task_id, event)
        elif taker.drops:
            store.drop(tx, taker.task_id)
            dropped.append(taker.name)
        elif taker.task_id == sender_id:
            raise Conflict(
                f"task {taker.name!r} has {taker.most} events waiting, and is the one to take them"
            )
        else:
            message = f"task {taker.name!r} has {taker.most} events waiting; try again"
            raise Overloaded(message, retry_after=_RETRY_SECONDS)
    return Published(event["id"], [each.name for each in takers if each.name not in dropped], dropped)


@dataclass(frozen=True, slots=True)
class _Listener:
    """An event-driven task, by its stored description. `types` empty: it takes every type."""

    task_id: int
    name: str
    types: frozenset[str]
    most: int
    drops: bool

    @classmethod
    def of(cls, row: Any) -> _Listener | None:
        """None for a task that takes none, or has a description that makes no sense: its attempt will say."""
        described = row.params if isinstance(row.params, dict) else {}
        faults: list[Fault] = []
        task = shapes.from_json(RealtimeTask, {**described, "name": row.name}, faults)
        if task is None or task.mode is not RealtimeMode.EVENT_DRIVEN or task.endpoint or task.collector:
            return None
        types = {each.event for each in task.subscriptions}
        return cls(
            row.id,
            row.name,
            frozenset({*types, EventType.DATA_ARRIVED.value} if types else ()),
            task.buffer_size,
            task.backpressure.action is Pressure.DROP,
        )

    def takes(self, type: str) -> bool:
        return not self.types or type in self.types


def _told(listeners: Sequence[_Listener]) -> str:
    known = sorted({type for each in listeners for type in each.types})
    if known:
        return f" (they take: {', '.join(known[:20])})"
    return "" if listeners else "; it has no event-driven task"


# --- reads


async def get(database: Database, task_id: int) -> Any:
    """The stream's row. Raises `NotFound` if the task is no stream, or has not started."""
    row = await database.read(store.find, task_id)
    if row is None:
        raise NotFound(f"stream not found: {task_id}")
    return row


async def batches(database: Database, task_id: int, *, limit: int = 100) -> list[Any]:
    """The newest batches: (number, first_sequence, last_sequence, size, attempt, result, error, at)."""
    return await database.read(store.batches, task_id, limit)
