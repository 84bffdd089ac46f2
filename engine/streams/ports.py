"""What a stream needs of whoever runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

from engine.model.json import JSON, storable_text
from engine.streams.events import StreamEvent, StreamState

if TYPE_CHECKING:  # a tenth of the start of a worker
    import httpx


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a stream has come. Items are numbered 1, 2, 3 … as they are accepted."""

    offset: JSON = None  # behind the last item that was dealt with
    sequence: int = 0  # its number
    received: int = 0  # the number of the last item that was accepted
    processed: int = 0
    failed: int = 0
    dropped: int = 0
    batches: int = 0
    gaps: int = 0
    is_first: bool = True  # no attempt came before
    seen_at: datetime | None = None  # when an earlier attempt was certainly connected; None: never
    is_paused: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Items `first` to `last`, dealt with. `dropped` is what was dropped since the batch before."""

    number: int  # 1, 2, 3 …
    first: int
    last: int
    size: int
    failed: int
    dropped: int
    offset: JSON
    result: JSON = None
    error: str | None = None


class Stored(NamedTuple):
    """An item that was stored when it came."""

    number: int
    payload: JSON


class StreamStore(Protocol):
    """The task's own memory, fenced by its lease: once that is lost every write raises `LeaseLost`.

    Writes say whether the source `is_connected`: what is known of that when the attempt dies begins the gap.
    """

    async def open(self) -> Standing: ...

    async def keep(self, payloads: Sequence[JSON], /, *, is_connected: bool) -> int:
        """Store items that cannot be read again; returns the number of the first."""
        ...

    async def waiting(self, after: int, limit: int, /) -> list[Stored]:
        """Stored items numbered above `after`, in order. They are removed by the commit of their batch."""
        ...

    async def arrived(self) -> None:
        """Return when somebody may have published something; after a second at the latest."""
        ...

    async def commit(self, batch: Batch, state: StreamState, /, *, is_connected: bool) -> bool:
        """The batch is dealt with, once and for all. Returns whether the run is paused."""
        ...

    async def look(self) -> bool:
        """Whether the run is paused."""
        ...

    async def tell(
        self,
        events: Sequence[StreamEvent],
        /,
        *,
        state: StreamState | None = None,
        gaps: int = 0,
        is_connected: bool = False,
    ) -> None:
        """Add events to the history of the run; note the state, and gaps to be counted."""
        ...

    async def holds(self, condition: str, names: Mapping[str, JSON], /) -> bool:
        """Evaluate CEL. Raises `ExpressionError`, `InvalidExpression`."""
        ...


class Network(Protocol):
    """The network as tasks may use it."""

    @property
    def is_guarded(self) -> bool:
        """Whether only public addresses may be reached."""
        ...

    @property
    def body_bytes(self) -> int:
        """The largest HTTP answer that is read."""
        ...

    async def addresses(self, host: str, port: int, /) -> list[str]:
        """Where to connect to, at least one. Raises `OSError` if there is none that may be reached."""
        ...

    def transport(self) -> httpx.AsyncBaseTransport: ...


class CallFailed(Exception):
    """A function raised. `delay_ms` is what it wants to be waited for before it is tried again.

    The message can be stored, whatever it says.
    """

    def __init__(self, message: str, *, is_permanent: bool = False, delay_ms: int | None = None) -> None:
        self.is_permanent = is_permanent
        self.delay_ms = delay_ms
        super().__init__(storable_text(message))


# Calls a registered function with the parameters of the task and those of these that it takes.
# Raises `CallFailed`.
Call = Callable[[str, Mapping[str, JSON]], Awaitable[JSON]]
Report = Callable[[JSON], Awaitable[None]]
Log = Callable[[str], None]  # a line of the attempt's log
