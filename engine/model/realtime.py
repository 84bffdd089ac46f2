"""Realtime tasks: steps of a streaming workflow that take items as they come (contract section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from engine.model import shapes
from engine.model.json import JSON


class RealtimeMode(StrEnum):
    ONE_SHOT = "one_shot"
    CONTINUOUS = "continuous"  # keeps running until the run is cancelled
    EVENT_DRIVEN = "event_driven"  # runs on the events it subscribes to


class RealtimeType(StrEnum):
    DATA_COLLECTOR = "data_collector"
    STREAM_PROCESSOR = "stream_processor"
    EVENT_LISTENER = "event_listener"
    SCHEDULED_POLLER = "scheduled_poller"


class Protocol(StrEnum):
    WS = "ws"
    WSS = "wss"
    TCP = "tcp"
    HTTP = "http"


class Pressure(StrEnum):
    """What happens to new items while the buffer is nearly full."""

    DROP = "drop"
    BLOCK = "block"
    THROTTLE = "throttle"


class CollectorMode(StrEnum):
    PUSH = "push"
    PULL = "pull"


@dataclass(frozen=True, slots=True)
class Endpoint:
    url: str
    protocol: Protocol

    def __post_init__(self) -> None:
        shapes.normalise(self)


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Waits `first_ms`, then `factor` times as long each time, at most `max_ms`, ± `jitter` (a fraction)."""

    enabled: bool = True
    max_attempts: int = 0  # 0: no limit
    first_ms: int = 1_000
    max_ms: int = 30_000
    factor: float = 2.0
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Backpressure:
    threshold: float = 0.8  # share of the buffer in use from which `action` is taken
    action: Pressure = Pressure.THROTTLE

    def __post_init__(self) -> None:
        shapes.normalise(self)


@dataclass(frozen=True, slots=True)
class Subscription:
    """Calls `function` for events of type `event`, the highest `priority` first, if `filter` (CEL) holds."""

    event: str
    function: str
    priority: int = 0
    filter: str | None = None


@dataclass(frozen=True, slots=True)
class RealtimeTask:
    """`function` is called per item, or per batch of up to `batch_size` items as `flush_interval_ms` pass."""

    name: str
    description: str = ""
    function: str | None = None
    params: JSON = None
    mode: RealtimeMode = RealtimeMode.ONE_SHOT
    type: RealtimeType = RealtimeType.DATA_COLLECTOR
    depends_on: Sequence[str] = ()
    timeout_ms: int | None = None
    retry_count: int = 0
    buffer_size: int = 10_000
    batch_size: int = 100
    flush_interval_ms: int = 1_000
    endpoint: Endpoint | None = None
    reconnect: Reconnect = field(default_factory=Reconnect)
    backpressure: Backpressure = field(default_factory=Backpressure)
    data_handler: str | None = None
    error_handler: str | None = None
    subscriptions: Sequence[Subscription] = ()
    collector: str | None = None
    collector_mode: CollectorMode = CollectorMode.PUSH

    def __post_init__(self) -> None:
        shapes.normalise(self)
        shapes.drop_repeats(self, "depends_on")
