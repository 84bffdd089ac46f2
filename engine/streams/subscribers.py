"""Who is told of events, in what order, and on which condition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from engine.errors import EngineError
from engine.model.json import JSON
from engine.model.realtime import Subscription
from engine.streams.events import StreamEvent
from engine.streams.ports import Call, CallFailed, Log

Holds = Callable[[str, Mapping[str, JSON]], Awaitable[bool]]


class Subscribers:
    """The subscriptions of one task. Those of the highest priority are called first, others as declared."""

    def __init__(self, subscriptions: Sequence[Subscription], call: Call, holds: Holds, log: Log) -> None:
        self._subscriptions = sorted(subscriptions, key=lambda each: -each.priority)
        self._types = frozenset(each.event for each in subscriptions)
        self._call = call
        self._holds = holds
        self._log = log

    def wants(self, type: str) -> bool:
        return type in self._types

    async def tell(self, event: StreamEvent) -> None:
        """One that fails changes nothing, and is written to the log."""
        for subscription in self.of(event.type):
            try:
                await self.call(subscription, event.to_json())
            except (CallFailed, EngineError) as error:
                self._log(f"subscriber {subscription.function} of {event.type}: {error}")

    def of(self, type: str) -> Iterator[Subscription]:
        return (each for each in self._subscriptions if each.event == type)

    async def call(self, subscription: Subscription, event: Mapping[str, JSON]) -> None:
        """Call its function, if its filter holds. Raises `CallFailed`, and what filters raise."""
        payload = event["payload"]
        if subscription.filter is not None and not await self._holds(
            subscription.filter, {"event": dict(event), "payload": payload}
        ):
            return
        await self._call(subscription.function, {"event": dict(event), "data": payload})
