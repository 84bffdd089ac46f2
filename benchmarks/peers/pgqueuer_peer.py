"""pgqueuer: asyncpg, one connection, LISTEN/NOTIFY, jobs moved to its log table when done.

Settings, by its documentation: `AsyncpgDriver` on one connection; `enqueue` with lists, its form for many
jobs, 1,000 each; `batch_size` 500 for dequeue and completion (10 is its default); no concurrency limits;
default durability; uvloop, as its own command line uses.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import asyncpg
import uvloop
from _common import Peer, Producer, began, main
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

SUBMIT_BATCH = 1000
CLAIM_BATCH = 500


@asynccontextmanager
async def queries(url: str) -> AsyncIterator[Queries]:
    connection = await asyncpg.connect(url)
    try:
        yield Queries(AsyncpgDriver(connection))
    finally:
        await connection.close()


async def setup(url: str) -> None:
    async with queries(url) as opened:
        await opened.install()


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with queries(url) as opened:

        async def one(number: int) -> None:
            await opened.enqueue("noop", b"%d" % number)

        async def bulk(numbers: Sequence[int]) -> None:
            for first in range(0, len(numbers), SUBMIT_BATCH):
                payloads: list[bytes | None] = [
                    b"%d" % number for number in numbers[first : first + SUBMIT_BATCH]
                ]
                await opened.enqueue(["noop"] * len(payloads), payloads, [0] * len(payloads))

        yield Producer(one, bulk)


async def work(url: str, ready: Callable[[], None]) -> None:
    pgq = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

    @pgq.entrypoint("noop")
    async def noop(job: Job) -> None:
        began(int(job.payload or b""))

    ready()
    await pgq.run(batch_size=CLAIM_BATCH)


if __name__ == "__main__":
    # A job leaves this table when it is done, whatever became of it.
    main(
        Peer(setup, producer, work, unfinished="select exists (select from pgqueuer)"), uvloop.new_event_loop
    )
