"""dramatiq on Redis: messages acknowledged after the job, nothing kept of finished ones.

Settings, by its documentation: one process per worker with 8 threads (the default); a plain actor, which
spares the hop to an event loop; `dramatiq_queue_prefetch` 100 (twice the threads by default; 5.1 k against
2.1 k jobs/s); `dramatiq_worker_timeout` 20 ms (1 s by default), the most it waits between polls of an empty
queue; default middleware; no results. It has no call for many messages: a loop. Redis has `appendonly yes`
and `appendfsync everysec`, which may lose the last second; the databases may not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import dramatiq
from _common import Peer, Producer, began, main
from dramatiq.brokers.redis import RedisBroker

THREADS = 8
SETTINGS = {"dramatiq_queue_prefetch": "100", "dramatiq_worker_timeout": "20"}


def broker(url: str) -> tuple[RedisBroker, dramatiq.Actor]:
    made = RedisBroker(url=url)

    @dramatiq.actor(broker=made)
    def noop(number: int) -> None:
        began(number)

    return made, noop


async def setup(url: str) -> None:
    broker(url)[0].flush_all()


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    opened, noop = broker(url)

    async def one(number: int) -> None:
        noop.send(number)

    async def bulk(numbers: Sequence[int]) -> None:
        for number in numbers:
            noop.send(number)

    try:
        yield Producer(one, bulk)
    finally:
        opened.close()


async def work(url: str, ready: Callable[[], None]) -> None:
    opened, _ = broker(url)
    ready()
    dramatiq.Worker(opened, worker_threads=THREADS).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    main(Peer(setup, producer, work, environment=SETTINGS))
