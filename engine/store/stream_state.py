"""How far streaming tasks have come, the items that wait for them, and their newest batches.

What their attempts write is fenced by the lease; what is published waits for whichever attempt comes.
Lock order: the task's row, the stream's row, the run's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from engine.model.json import JSON
from engine.model.records import Lease
from engine.model.states import FINAL_TASK_STATES, RunState
from engine.model.tally import Change
from engine.model.workflow_graph import REALTIME
from engine.store.bookkeeping import record
from engine.store.database import SIGNALLED, Transaction
from engine.store.schema import run, task, task_state
from engine.store.statement import insert_rows, json_text, moment_of
from engine.store.stream_schema import stream, stream_batch, stream_item
from engine.store.workers import holds

KEPT_BATCHES = 1_000
_INITIALIZING = "initializing"


# --- by the attempt that holds the lease; None or False: it is lost


def open(tx: Transaction, lease: Lease) -> tuple[Any, bool] | None:
    """The stream's row as an earlier attempt left it, made if there is none; whether the run is paused."""
    if not holds(tx, lease):
        return None
    _ensure(tx, lease.task_id)
    row = find(tx, lease.task_id)
    now = moment_of(tx.dialect, stream.c.opened_at)
    _change(tx, lease.task_id, {"opened_at": now, "changed_at": now})
    return row, is_paused(tx, lease.run_id)


def keep(tx: Transaction, lease: Lease, payloads: Sequence[JSON], is_connected: bool) -> int | None:
    """Store items as they came; returns the number of the first."""
    if not holds(tx, lease):
        return None
    return _add(tx, lease.task_id, payloads, **_seen(tx, is_connected))


def commit(
    tx: Transaction,
    lease: Lease,
    *,
    number: int,
    first: int,
    last: int,
    size: int,
    failed: int,
    dropped: int,
    offset: JSON,
    result: JSON,
    error: str | None,
    state: str,
    is_connected: bool,
) -> bool | None:
    """Batch `number`, with items up to `last`, is dealt with. Returns whether the run is paused.

    Repeated, it changes nothing.
    """
    if not holds(tx, lease):
        return None
    row = stream.c
    written = tx.execute(
        sa.update(stream)
        .where(row.task_id == lease.task_id, row.batches == number - 1)
        .values(
            {
                "offset": offset,
                "sequence": last,
                # Of stored items it is ahead already; of others the newest is the one dealt with last.
                "received": sa.case((row.received < last, last), else_=row.received),
                "processed": row.processed + (size - failed),
                "failed": row.failed + failed,
                "dropped": row.dropped + dropped,
                "batches": number,
                "state": state,
                "changed_at": moment_of(tx.dialect, row.changed_at),
                **_seen(tx, is_connected),
            }
        )
        .returning(row.batches)
    ).one_or_none()
    if written is None:  # an earlier try was committed, and its answer lost
        return is_paused(tx, lease.run_id)
    tx.execute(
        sa.insert(stream_batch).values(
            task_id=lease.task_id,
            number=number,
            first_sequence=first,
            last_sequence=last,
            size=size,
            attempt=lease.attempt,
            result=result,
            error=error,
            at=moment_of(tx.dialect, stream_batch.c.at),
        )
    )
    _remove(tx, stream_batch, lease.task_id, number - KEPT_BATCHES)
    _remove(tx, stream_item, lease.task_id, last)
    return is_paused(tx, lease.run_id)


def tell(
    tx: Transaction,
    lease: Lease,
    events: Sequence[tuple[str, JSON]],
    state: str | None,
    gaps: int,
    is_connected: bool,
) -> bool:
    """Add events (kind, detail) to the history of the run."""
    tx.dialect.share_runs(tx, [lease.run_id])
    if not holds(tx, lease):
        return False
    now = moment_of(tx.dialect, stream.c.changed_at)
    changed: dict[str, Any] = {"changed_at": now, **_seen(tx, is_connected)}
    if state is not None:
        changed["state"] = state
    if gaps:
        changed["gaps"] = stream.c.gaps + gaps
    _change(tx, lease.task_id, changed)
    record(
        tx,
        [Change(lease.run_id, kind, lease.task_id, lease.attempt, detail=detail) for kind, detail in events],
    )
    return True


# --- reads


def waiting(tx: Transaction, task_id: int, after: int, limit: int) -> list[tuple[int, JSON]]:
    """Stored items numbered above `after`: (number, payload), in order."""
    query = (
        sa.select(stream_item.c.number, stream_item.c.payload)
        .where(stream_item.c.task_id == task_id, stream_item.c.number > after)
        .order_by(stream_item.c.number)
        .limit(limit)
    )
    return [(row.number, row.payload) for row in tx.execute(query)]


def is_paused(tx: Transaction, run_id: int) -> bool:
    state = tx.execute(sa.select(run.c.state).where(run.c.id == run_id)).scalar_one()
    return bool(state == RunState.PAUSED)


def find(tx: Transaction, task_id: int) -> Any:
    """The stream's row; None if it never started and nothing waits for it."""
    return tx.execute(sa.select(stream).where(stream.c.task_id == task_id)).one_or_none()


def batches(tx: Transaction, task_id: int, limit: int) -> list[Any]:
    """The newest batches, newest first."""
    query = (
        sa.select(stream_batch)
        .where(stream_batch.c.task_id == task_id)
        .order_by(stream_batch.c.number.desc())
        .limit(limit)
    )
    return list(tx.execute(query))


# --- published by others


def realtime_tasks(tx: Transaction, run_id: int) -> list[Any]:
    """Streaming tasks of a run that have not ended: (id, name, params), in id order."""
    query = (
        sa.select(task.c.id, task.c.name, task.c.params)
        .join(task_state, task_state.c.task_id == task.c.id)
        .where(
            task.c.run_id == run_id,
            task.c.kind == REALTIME,
            task_state.c.state.not_in(sorted(state.value for state in FINAL_TASK_STATES)),
        )
        .order_by(task.c.id)
    )
    return list(tx.execute(query))


def room(tx: Transaction, task_id: int, most: int) -> int:
    """How many more items may wait; the stream's row stays locked until the transaction ends."""
    _ensure(tx, task_id)
    query = sa.select(stream.c.received, stream.c.sequence).where(stream.c.task_id == task_id)
    row = tx.execute(query.with_for_update()).one()
    waiting: int = row.received - row.sequence
    return max(0, most - waiting)


def add(tx: Transaction, task_id: int, payload: JSON) -> int:
    """Let an item wait for the task. Returns its number. The caller has looked for room."""
    tx.wakes.add(SIGNALLED)
    return _add(tx, task_id, [payload])


def drop(tx: Transaction, task_id: int) -> None:
    """Count an item that there was no room for."""
    _change(tx, task_id, {"dropped": stream.c.dropped + 1})


# --- rows


def _ensure(tx: Transaction, task_id: int) -> None:
    row = {
        "task_id": task_id,
        "state": _INITIALIZING,
        "changed_at": moment_of(tx.dialect, stream.c.changed_at),
    }
    tx.execute(tx.dialect.insert(stream).values(row).on_conflict_do_nothing())


def _add(tx: Transaction, task_id: int, payloads: Sequence[JSON], **values: Any) -> int:
    newest = tx.execute(
        sa.update(stream)
        .where(stream.c.task_id == task_id)
        .values({"received": stream.c.received + len(payloads), **values})
        .returning(stream.c.received)
    ).scalar_one()
    first = int(newest) - len(payloads) + 1
    rows = [(task_id, number, json_text(payload)) for number, payload in enumerate(payloads, first)]
    insert_rows(tx, stream_item, rows, ("task_id", "number", "payload"), stamped="received_at")
    return first


def _seen(tx: Transaction, is_connected: bool) -> dict[str, Any]:
    return {"seen_at": moment_of(tx.dialect, stream.c.seen_at)} if is_connected else {}


def _change(tx: Transaction, task_id: int, values: dict[str, Any]) -> None:
    tx.execute(sa.update(stream).where(stream.c.task_id == task_id).values(values))


def _remove(tx: Transaction, table: sa.Table, task_id: int, upto: int) -> None:
    tx.execute(sa.delete(table).where(table.c.task_id == task_id, table.c.number <= upto))
