"""Events of a stream, as the contract has them (section 5.10): types, fields and payloads."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from engine.model.json import JSON, storable_text

MAX_MESSAGE = 2_000  # characters of an error in an event


class EventType(StrEnum):
    DATA_ARRIVED = "data.arrived"
    DATA_PROCESSED = "data.processed"
    DATA_BATCHED = "data.batched"
    TASK_STARTED = "task.started"
    TASK_PAUSED = "task.paused"
    TASK_RESUMED = "task.resumed"
    TASK_STOPPED = "task.stopped"
    CONNECTION_ESTABLISHED = "connection.established"
    CONNECTION_LOST = "connection.lost"
    CONNECTION_RECONNECTING = "connection.reconnecting"
    CONNECTION_RESTORED = "connection.restored"
    ERROR_OCCURRED = "error.occurred"
    ERROR_RECOVERED = "error.recovered"
    BACKPRESSURE_TRIGGERED = "backpressure.triggered"
    BACKPRESSURE_RELIEVED = "backpressure.relieved"


PRESSURE = frozenset({EventType.BACKPRESSURE_TRIGGERED, EventType.BACKPRESSURE_RELIEVED})


class StreamState(StrEnum):
    """Where a streaming task is, in the words of the contract."""

    INITIALIZING = "initializing"
    RUNNING = "running"
    PAUSED = "paused"
    RECONNECTING = "reconnecting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    type: str
    task_id: str
    instance_id: str
    payload: JSON
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    correlation_id: str | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    timestamp: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def is_kept(self) -> bool:
        """Whether it belongs into the history of its run. Those about data are too many."""
        return not self.type.startswith("data.")

    def to_json(self) -> dict[str, JSON]:
        return {
            "id": self.id,
            "type": self.type,
            "task_id": self.task_id,
            "instance_id": self.instance_id,
            "timestamp": self.timestamp.isoformat(),
            "payload": self.payload,
            "metadata": dict(self.metadata),
            "correlation_id": self.correlation_id,
        }


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which what came was not seen."""

    since: datetime
    until: datetime

    def to_json(self) -> dict[str, JSON]:
        return {"from": self.since.isoformat(), "to": self.until.isoformat()}


# --- payloads


def data(items: Sequence[JSON], source: str, sequence: int, batch: int | None) -> dict[str, JSON]:
    """`sequence` is the number of the first item."""
    return {
        "data": items[0] if batch is None else list(items),
        "source": source,
        "size": len(items),
        "sequence": sequence,
        "batch_id": None if batch is None else str(batch),
    }


def connection(
    endpoint: str, protocol: str, retries: int, error: str | None = None, gap: Gap | None = None
) -> dict[str, JSON]:
    document: dict[str, JSON] = {
        "endpoint": endpoint,
        "protocol": protocol,
        "retry_count": retries,
        "error": None if error is None else _short(error),
    }
    return document if gap is None else {**document, "gap": gap.to_json()}


def failure(code: str, message: str, *, recoverable: bool) -> dict[str, JSON]:
    """Where it was raised stands in the attempt's log, so `stack` is empty."""
    return {
        "error_code": code,
        "message": _short(message),
        "stack": "",
        "recoverable": recoverable,
    }


def _short(message: str) -> str:
    return storable_text(message[:MAX_MESSAGE])


def backpressure(usage: float, length: int, threshold: float, action: str) -> dict[str, JSON]:
    return {
        "buffer_usage": round(usage, 4),
        "queue_length": length,
        "threshold": threshold,
        "action": action,
    }


def task(task_id: str, name: str, old: StreamState, new: StreamState, reason: str) -> dict[str, JSON]:
    return {
        "task_id": task_id,
        "task_name": name,
        "old_status": old.value,
        "new_status": new.value,
        "reason": reason,
    }
