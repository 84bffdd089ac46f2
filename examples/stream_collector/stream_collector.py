"""Readings of sensors, collected from a TCP server into a table for as long as you like.

The server sends a line of JSON for each reading. They are stored when they come and handled in batches. A
batch that was interrupted is handled again: what handles it has to be able to write the same rows twice.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import sqlalchemy as sa
from pydantic import AwareDatetime, BaseModel

from engine import Engine, RealtimeTaskBuilder, SyncContext, Workflow, WorkflowBuilder, task

_CREATE = """
CREATE TABLE IF NOT EXISTS reading (
    sensor TEXT NOT NULL, at TEXT NOT NULL, celsius DOUBLE PRECISION NOT NULL, PRIMARY KEY (sensor, at)
)
"""
_INSERT = "INSERT INTO reading VALUES (:sensor, :at, :celsius) ON CONFLICT DO NOTHING"


class Reading(BaseModel):
    sensor: str
    at: AwareDatetime
    celsius: float


@task
def store_readings(ctx: SyncContext, data: list[Reading]) -> int:
    """A batch, in one transaction."""
    target: sa.Engine = ctx.get_dependency("target")
    rows = [reading.model_dump(mode="json") for reading in data]
    with target.begin() as connection:
        connection.execute(sa.text(_CREATE))
        connection.execute(sa.text(_INSERT), rows)
    return len(rows)


@task
def note_failure(ctx: SyncContext, error: str, **_: Any) -> None:
    """Of a batch that could not be stored: it is skipped, and what was in it is counted as failed."""
    ctx.log(f"skipped: {error}")


FUNCTIONS = [store_readings, note_failure]


def collector(address: str, *, batch_size: int = 100, flush_seconds: float = 1.0) -> Workflow:
    """Reads from `host:port` until its run is cancelled; connects again whenever the connection is lost."""
    collect = (
        RealtimeTaskBuilder("collect", "readings as they come")
        .with_continuous_mode()
        .with_task_type("data_collector")
        .with_endpoint(f"tcp://{address}", "tcp")
        .with_reconnect_backoff(0.2, 30, 2)
        .with_buffer(10 * batch_size, batch_size)
        .with_flush_interval(flush_seconds)
        .with_backpressure(0.8, "block")
        .with_data_handler("store_readings")
        .with_error_handler("note_failure")
        .build()
    )
    return WorkflowBuilder("sensors").with_streaming_mode().with_realtime_task(collect).build()


# --- as a program


def open_target(url: str) -> sa.Engine:
    """`sqlite:///file.db` or `postgresql://…`."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed)


async def run(address: str, target_url: str, engine_url: str, seconds: float) -> None:
    target = open_target(target_url)
    try:
        async with Engine(engine_url, functions=FUNCTIONS, services={"target": target}) as engine:
            started = await engine.execute(collector(address))
            await asyncio.sleep(seconds)
            await engine.cancel(started.run_id, reason="enough")
            await engine.wait(started.run_id)
            [task] = await engine.tasks(started.run_id)
            print(task.progress)
    finally:
        target.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description="Collect readings of sensors into a table.")
    parser.add_argument("address", help="host:port of the server that sends them")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to collect")
    parser.add_argument("--target", default="sqlite:///readings.db", help="the database with the table")
    parser.add_argument("--engine", default="sqlite:///task-engine.db", help="the engine's own database")
    given = parser.parse_args()
    asyncio.run(run(given.address, given.target, given.engine, given.seconds))


if __name__ == "__main__":
    main()
