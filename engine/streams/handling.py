"""What becomes of a batch: the functions that get it, how often they are tried, and who hears of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import EvaluatorUnavailable, ExpressionError, InvalidExpression
from engine.model.json import JSON
from engine.model.retry import RetryPolicy
from engine.streams.buffer import Entry
from engine.streams.ports import Call, CallFailed, Log
from engine.streams.subscribers import Subscribers


@dataclass(frozen=True, slots=True)
class Handled:
    """`error` is the last one, if something failed for good; `failed` counts the items that it is about."""

    failed: int = 0
    result: JSON = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Handling:
    """`handler` gets whole batches, or single items if `takes_single`.

    Items of an event-driven task (`are_events`) are events that somebody published: first the subscribers of
    each are called, then the handler gets the payloads of those with which no subscriber failed.
    """

    handler: str | None
    error_handler: str | None
    takes_single: bool
    are_events: bool
    retry: RetryPolicy
    subscribers: Subscribers
    call: Call
    log: Log

    async def handle(self, entries: Sequence[Entry], batch: int) -> Handled:
        """Never raises for what functions do."""
        fine, error = await self._deliver(entries) if self.are_events else (list(entries), None)
        result: JSON = None
        if fine and self.handler is not None:
            try:
                result = await self._try(self._calling(self.handler, fine, batch))
            except CallFailed as failure:
                fine, error = [], str(failure)
        if error is not None:
            await self._tell_of(error, [self._payload(entry) for entry in entries], batch)
        return Handled(len(entries) - len(fine), result, error)

    def _payload(self, entry: Entry) -> JSON:
        payload = entry.item.payload
        return payload["payload"] if self.are_events else payload

    def _calling(self, handler: str, entries: Sequence[Entry], batch: int) -> Callable[[], Awaitable[JSON]]:
        payloads = [self._payload(entry) for entry in entries]
        given: Mapping[str, JSON] = {
            "data": payloads[0] if self.takes_single else payloads,
            "batch": batch,
            "sequence": entries[0].number,
        }
        return lambda: self.call(handler, given)

    async def _deliver(self, entries: Sequence[Entry]) -> tuple[list[Entry], str | None]:
        """The entries with which no subscriber failed, and the last error."""
        fine: list[Entry] = []
        error: str | None = None
        for entry in entries:
            try:
                await self._deliver_one(entry)
                fine.append(entry)
            except CallFailed as failure:
                error = str(failure)
        return fine, error

    async def _deliver_one(self, entry: Entry) -> None:
        event = entry.item.payload
        for subscription in self.subscribers.of(event["type"]):

            async def deliver() -> JSON:
                try:
                    await self.subscribers.call(subscription, event)  # noqa: B023 - called before the next
                except (ExpressionError, InvalidExpression) as error:
                    raise CallFailed(f"filter: {error}", is_permanent=True) from None
                except EvaluatorUnavailable as error:
                    raise CallFailed(str(error)) from None
                return None

            await self._try(deliver)

    async def _try(self, call: Callable[[], Awaitable[JSON]]) -> JSON:
        """As often as the task's retries allow. Raises the last `CallFailed`."""
        failures = 0
        while True:
            try:
                return await call()
            except CallFailed as failure:
                failures += 1
                if failure.is_permanent or failures >= self.retry.max_attempts:
                    raise
                asked = failure.delay_ms
                await asyncio.sleep((self.retry.delay_ms(failures) if asked is None else asked) / 1000)

    async def _tell_of(self, error: str, payloads: list[JSON], batch: int) -> None:
        self.log(f"batch {batch}: {error}")
        if self.error_handler is None:
            return
        given = {"error": error, "data": payloads[0] if self.takes_single else payloads, "batch": batch}
        try:
            await self.call(self.error_handler, given)
        except CallFailed as failure:
            self.log(f"error handler {self.error_handler}: {failure}")
