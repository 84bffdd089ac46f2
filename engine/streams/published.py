"""Items that others publish to the task: events, stored until the batch that they are in is dealt with."""

from __future__ import annotations

from engine.model.json import JSON
from engine.streams.ports import StreamStore
from engine.streams.sources import Connected, Item, Reads

_PAGE = 100


class Published:
    """Never over. Each item is `{"id", "type", "payload"}`; its offset is its number."""

    name = "events"
    endpoint = ""
    protocol = "events"
    replayable = True

    def __init__(self, store: StreamStore) -> None:
        self._store = store

    async def items(self, offset: JSON, /) -> Reads:
        yield Connected()
        after = offset if isinstance(offset, int) else 0
        while True:
            found = await self._store.waiting(after, _PAGE)
            for number, payload in found:
                yield Item(payload, offset=number, number=number)
                after = number
            if not found:
                await self._store.arrived()
