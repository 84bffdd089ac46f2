"""DBOS: workflows on a queue, psycopg under SQLAlchemy, finished workflows kept.

Settings, by its documentation: sync workflows without steps (async ones drained 830 jobs/s where these did
1,150, and 880 against 1,560 with two workers); a queue with `worker_concurrency` 200 and
`polling_interval_sec` 0.02 (1 s is the default; queues are polled, so this bounds the pick-up); 20
connections in the system pool; tracing off. It has no call for many workflows: `enqueue_in_transaction` of
the client puts 1,000 into each commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import sqlalchemy
from _common import Peer, Producer, began, main
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions

QUEUE = "jobs"
SUBMIT_BATCH = 1000
WORKER_CONCURRENCY = 200
POLLING_SECONDS = 0.02
POOL_SIZE = 20
OPTIONS: EnqueueOptions = {"workflow_name": "noop", "queue_name": QUEUE}


def configure(url: str) -> None:
    config: DBOSConfig = {
        "name": "peer",
        "system_database_url": url,
        "sys_db_pool_size": POOL_SIZE,
        "application_version": "1",
        "enable_otlp": False,
        "log_level": "WARNING",
    }
    DBOS(config=config)

    @DBOS.workflow(name="noop")
    def noop(number: int) -> None:
        began(number)


async def setup(url: str) -> None:
    configure(url)
    await asyncio.to_thread(DBOS.launch)
    await DBOS.register_queue_async(
        QUEUE, worker_concurrency=WORKER_CONCURRENCY, polling_interval_sec=POLLING_SECONDS
    )
    await asyncio.to_thread(DBOS.destroy)


@asynccontextmanager
async def producer(url: str) -> AsyncIterator[Producer]:
    client = DBOSClient(system_database_url=url, application_name="peer")
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"))

    async def one(number: int) -> None:
        client.enqueue(OPTIONS, number)

    async def bulk(numbers: Sequence[int]) -> None:
        for first in range(0, len(numbers), SUBMIT_BATCH):
            with engine.begin() as transaction:
                for number in numbers[first : first + SUBMIT_BATCH]:
                    client.enqueue_in_transaction(transaction, OPTIONS, number)

    try:
        yield Producer(one, bulk)
    finally:
        client.destroy()
        engine.dispose()


async def work(url: str, ready: Callable[[], None]) -> None:
    configure(url)
    ready()
    await asyncio.to_thread(DBOS.launch)
    await asyncio.Event().wait()


if __name__ == "__main__":
    waiting = "select exists (select from dbos.workflow_status where status in ('ENQUEUED', 'PENDING'))"
    main(Peer(setup, producer, work, unfinished=waiting))
