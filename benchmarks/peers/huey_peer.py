"""huey on SQLite: jobs deleted when taken, before they run.

Settings, by its documentation: `fsync=True` (synchronous=FULL, as durable as our own; WAL is its default);
one thread per consumer, as more would only share the interpreter and the file's one writer; polling every
20 ms without back-off; no periodic tasks. It has no call for many jobs: a loop. `--url sqlite:///file`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from _common import Peer, Producer, began, main
from huey import SqliteHuey
from huey.api import TaskWrapper
from huey.consumer import Consumer

POLLING_SECONDS = 0.02


def open_queue(url: str) -> tuple[SqliteHuey, TaskWrapper]:
    huey = SqliteHuey("peer", filename=url.removeprefix("sqlite:///"), fsync=True)

    @huey.task(name="noop")
    def noop(number: int) -> None:
        began(number)

    return huey, noop


async def setup(url: str) -> None:
    open_queue(url)[0].flush()


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    huey, noop = open_queue(url)

    async def one(number: int) -> None:
        noop(number)

    async def bulk(numbers: Sequence[int]) -> None:
        for number in numbers:
            noop(number)

    try:
        yield Producer(one, bulk)
    finally:
        huey.storage.close()


async def work(url: str, ready: Callable[[], None]) -> None:
    huey, _ = open_queue(url)
    consumer = Consumer(
        huey, workers=1, periodic=False, initial_delay=POLLING_SECONDS, max_delay=POLLING_SECONDS
    )
    ready()
    consumer.run()


if __name__ == "__main__":
    main(Peer(setup, producer, work))
