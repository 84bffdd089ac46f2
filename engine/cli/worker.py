"""`task-engine worker start`: work on the tasks of a database that others submit to."""

from __future__ import annotations

import asyncio
from typing import Any

import rich_click as click

from engine.cli import let_output_go
from engine.cli.options import DURATION, config_option, data_dir_option, db_option, functions_option, stacked
from engine.cli.stopping import Stopping
from engine.cli.wiring import check_schema, hide_secrets_of, is_sqlite, open_database, upgrade_schema
from engine.executors.registry import ExecutorRegistry
from engine.sdk.configured import executor_settings, worker_options
from engine.settings import Settings, load
from engine.store.database import Database
from engine.telemetry import configure_logging, emit
from engine.worker.options import WorkerOptions
from engine.worker.pool import PoolSpec, run_pool
from engine.worker.service import Worker


@click.group("worker")
def worker() -> None:
    """Work on tasks of a database."""


@worker.command("start")
@stacked(db_option, data_dir_option)
@click.option(
    "--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes."
)
@click.option(
    "--concurrency",
    "max_concurrency",
    type=click.IntRange(1),
    metavar="N",
    help="Tasks at a time in each (10).",
)
@click.option("--queues", metavar="A,B", help="Take only from these queues.")
@functions_option
@click.option("--name", "worker_name", metavar="NAME", help="Name in lists of workers.")
@click.option("--shutdown-timeout", type=DURATION, help="Wait for running tasks at a stop (15s).")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level logged."
)
@config_option
def start(processes: int, **flags: Any) -> None:
    """Work until SIGTERM or Ctrl-C: then claim no more and let running tasks end. Twice: at once."""
    settings = load(flags)
    options = worker_options(settings)
    let_output_go()
    configure_logging(settings.log_level)
    hide_secrets_of(settings)
    database = open_database(
        settings, must_exist=True, instead="`task-engine db upgrade` makes one, or name another with --db"
    )
    try:
        if is_sqlite(settings.database):
            upgrade_schema(database)
        else:
            check_schema(database)
        asyncio.run(_run(settings, options, database, processes))
    finally:
        database.close()


async def _run(settings: Settings, options: WorkerOptions, database: Database, processes: int) -> None:
    stopping = Stopping()
    limits = executor_settings(settings, is_local=settings.address.is_loopback, protected=database.files)
    registry = ExecutorRegistry.from_entry_points(limits)  # here too: what cannot be loaded is said at once
    if processes > 1:
        spec = PoolSpec(
            url=settings.database,
            processes=processes,
            options=options,
            executor_settings=limits,
            wake_others=settings.wake,
            run_defaults=settings.run_defaults,
            log_level=settings.log_level,
        )
        emit("pool.started", processes=processes, concurrency=options.concurrency)
        await stopping.finish(run_pool(spec, stopping.stop, stopping.force))
        emit("pool.stopped")
        return
    only = Worker(database, registry, options)
    await only.start()
    await stopping.stop.wait()
    await stopping.finish(only.drain())
