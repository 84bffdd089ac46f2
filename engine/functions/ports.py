"""What functions may ask of the engine around them. Whoever runs them provides it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from engine.errors import Conflict
from engine.model.graph import TaskSpec
from engine.model.json import JSON
from engine.model.outcomes import Outcome


class Saved(NamedTuple):
    """A step that was done before, in this attempt or an earlier one."""

    result: JSON


class DurableSteps(Protocol):
    """What a task has done so far, kept so that its next attempt need not do it again.

    Names are the task's own. Each call may be repeated; writes are fenced by the attempt's lease.
    """

    async def step_result(self, name: str, /) -> Saved | None: ...

    async def save_step(self, name: str, result: JSON, /) -> None: ...

    async def sleep_until(self, name: str, seconds: float, /) -> None:
        """Return `seconds` after the first call with this name, whichever attempt made it."""
        ...

    async def next_signal(self, name: str, timeout: float | None, /) -> JSON:
        """Take the oldest signal of this name, waiting for one. Raises `TimeoutError` after `timeout` s."""
        ...


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one attempt. What is None is not available; to ask for it raises `Conflict`."""

    spawn: Callable[[Sequence[TaskSpec]], Awaitable[list[int]]] | None = None
    report: Callable[[JSON], Awaitable[None]] | None = None
    upstream: Callable[[], Awaitable[dict[str, JSON]]] | None = None  # in the order of the dependencies
    steps: DurableSteps | None = None
    workflow_id: str | None = None
    perform: Callable[[str, JSON], Awaitable[Outcome]] | None = None  # by the executor of a kind
    publish: Callable[[str, JSON], Awaitable[list[str]]] | None = None  # to event-driven tasks of the run

    async def ask(self, port: str, *arguments: Any) -> Any:
        """Call a port by name: so a thread or another process may ask for one as well."""
        owner = self.steps if port in _STEPS else self
        call = getattr(owner, port, None) if port in _ASKED else None
        if call is None:
            raise Conflict(f"{port} is not available to functions here")
        return await call(*arguments)


# May take days: given up when the attempt is to stop.
WAITING = frozenset({"sleep_until", "next_signal", "publish"})
_STEPS = frozenset({"sleep_until", "next_signal", "step_result", "save_step"})
_ASKED = _STEPS | {"spawn", "report", "perform", "publish"}


@dataclass(slots=True)
class InMemorySteps:
    """`DurableSteps` of one task that last as long as this object. For tests."""

    saved: dict[str, JSON] = field(default_factory=dict)
    _wake_at: dict[str, float] = field(default_factory=dict)
    _signals: dict[str, asyncio.Queue[JSON]] = field(default_factory=dict)

    async def step_result(self, name: str, /) -> Saved | None:
        return Saved(self.saved[name]) if name in self.saved else None

    async def save_step(self, name: str, result: JSON, /) -> None:
        self.saved[name] = result

    async def sleep_until(self, name: str, seconds: float, /) -> None:
        wake_at = self._wake_at.setdefault(name, time.monotonic() + seconds)
        await asyncio.sleep(max(0.0, wake_at - time.monotonic()))

    async def next_signal(self, name: str, timeout: float | None, /) -> JSON:
        async with asyncio.timeout(timeout):
            return await self._queue(name).get()

    def signal(self, name: str, payload: JSON = None) -> None:
        """Send one, from the event loop."""
        self._queue(name).put_nowait(payload)

    def _queue(self, name: str) -> asyncio.Queue[JSON]:
        return self._signals.setdefault(name, asyncio.Queue())
