"""chancy: psycopg, LISTEN/NOTIFY, finished jobs kept until pruned.

Settings, by its documentation: the async executor; `concurrency` 1,000 per worker (100 is its default);
`eager_polling`; notifications on; the default plugins; a logger that is silent below warnings, because its
own writes lines for every job; `push_many` with its default batch of 1,000; uvloop.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import uvloop
from _common import Peer, Producer, began, main
from chancy import Chancy, Job, Queue, Worker

CONCURRENCY = 1000


def app(url: str) -> Chancy:
    return Chancy(url, log=logging.getLogger("chancy"))  # its own logger writes two lines per job


async def noop(number: int) -> None:
    began(number)


def job(number: int) -> Job:
    return Job(func="chancy_peer.noop", kwargs={"number": number})


async def setup(url: str) -> None:
    async with app(url) as opened:
        await opened.migrate()
        queue = Queue("default", executor=Chancy.Executor.Async, concurrency=CONCURRENCY, eager_polling=True)
        await opened.declare(queue, upsert=True)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with app(url) as opened:

        async def one(number: int) -> None:
            await opened.push(job(number))

        async def bulk(numbers: Sequence[int]) -> None:
            async for _ in opened.push_many([job(number) for number in numbers]):
                pass

        yield Producer(one, bulk)


async def work(url: str, ready: Callable[[], None]) -> None:
    async with app(url) as opened:
        ready()
        async with Worker(opened) as worker:
            await worker.wait_for_shutdown()


if __name__ == "__main__":
    waiting = "select exists (select from chancy_jobs where state not in ('succeeded', 'failed'))"
    main(Peer(setup, producer, work, unfinished=waiting), uvloop.new_event_loop)
