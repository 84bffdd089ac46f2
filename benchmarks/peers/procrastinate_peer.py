"""procrastinate: psycopg, LISTEN/NOTIFY, finished jobs kept.

Settings, by its documentation: async tasks; `concurrency` 30 and an async pool of 10 connections (best of the
concurrencies 1 to 100 measured, which hardly differ: it fetches one job per round trip); `batch_defer_async`
for many jobs, 1,000 each; `delete_jobs="never"`, the default, so that finished jobs stay to be looked at;
uvloop.

Its workers are too slow to churn 100,000 jobs in a useful time. `held_snapshot` churns with four clients that
call the same SQL functions as the workers do, one job per call; the drain that follows is a worker's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import procrastinate
import psycopg
import uvloop
from _common import Peer, Producer, began, main

SUBMIT_BATCH = 1000
CONCURRENCY = 30
POOL_SIZE = 10
CHURN_CLIENTS = 4


def app(url: str) -> procrastinate.App:
    pool = procrastinate.PsycopgConnector(conninfo=url, min_size=POOL_SIZE, max_size=POOL_SIZE)
    made = procrastinate.App(connector=pool)

    @made.task(name="noop")
    async def noop(number: int) -> None:
        began(number)

    return made


async def setup(url: str) -> None:
    async with app(url).open_async() as opened:
        await opened.schema_manager.apply_schema_async()


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    async with app(url).open_async() as opened:
        task = opened.tasks["noop"]

        async def one(number: int) -> None:
            await task.defer_async(number=number)

        async def bulk(numbers: Sequence[int]) -> None:
            for first in range(0, len(numbers), SUBMIT_BATCH):
                batch = numbers[first : first + SUBMIT_BATCH]
                await task.batch_defer_async(*({"number": number} for number in batch))

        yield Producer(one, bulk)


async def work(url: str, ready: Callable[[], None]) -> None:
    async with app(url).open_async() as opened:
        ready()
        await opened.run_worker_async(concurrency=CONCURRENCY, listen_notify=True, delete_jobs="never")


async def churn(url: str, numbers: Sequence[int], cut: float) -> None:
    until = time.monotonic() + cut

    async def client() -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            registered = await connection.execute("select worker_id from procrastinate_register_worker_v1()")
            worker_ids = await registered.fetchone()
            while time.monotonic() < until:
                fetch = "select id, (args->>'number')::int from procrastinate_fetch_job_v2(null, %s)"
                fetched = await (await connection.execute(fetch, worker_ids)).fetchone()
                if fetched is None or fetched[0] is None:
                    return
                began(fetched[1])
                finish = "select procrastinate_finish_job_v1(%s, 'succeeded', false)"
                await connection.execute(finish, fetched[:1])

    await asyncio.gather(*(client() for _ in range(CHURN_CLIENTS)))


if __name__ == "__main__":
    waiting = "select exists (select from procrastinate_jobs where status in ('todo', 'doing'))"
    main(Peer(setup, producer, work, unfinished=waiting, churn=churn), uvloop.new_event_loop)
