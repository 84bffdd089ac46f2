"""`task-engine run`: a graph from a file, run here and now by a worker in this process."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import suppress
from typing import Any

import rich_click as click
from click.exceptions import Exit

from engine.cli.graphs import graph_of
from engine.cli.options import (
    FILE,
    RUN_ID,
    config_option,
    data_dir_option,
    db_option,
    json_option,
    stacked,
)
from engine.cli.output import note, say
from engine.cli.program import FAILED, INTERRUPTED
from engine.cli.summary import print_summary, read_summary
from engine.cli.watch import Progress, QuietView, View, view
from engine.cli.wiring import check_schema, hide_secrets_of, is_sqlite, open_database, upgrade_schema
from engine.client.documents import read
from engine.errors import Conflict
from engine.executors.registry import ExecutorRegistry
from engine.model.graph import Graph
from engine.model.states import RunState
from engine.operations import runs, submits
from engine.sdk.configured import executor_settings, worker_options
from engine.sdk.opening import shown
from engine.settings import Settings, load
from engine.store.database import Database
from engine.telemetry import configure_logging
from engine.worker.service import Worker

_LOOK_SECONDS = 0.1
_PAGE = 1000
TERMINATED = 143


@click.command("run")
@click.argument("file", type=FILE, required=False)
@click.option("--resume", "resume_id", type=RUN_ID, metavar="RUN", help="Go on with a stored run.")
@stacked(db_option, data_dir_option)
@click.option("--max-concurrency", type=click.IntRange(1), metavar="N", help="Tasks at a time (default: 10).")
@stacked(config_option, json_option)
def run(file: str | None, resume_id: int | None, as_json: bool, **flags: Any) -> None:
    """Run the graph in FILE (JSON or YAML, `-` reads standard input) here and now.

    The run is stored before it starts. Ctrl-C cancels it, twice leaves at once; --resume goes on with what
    had not succeeded.
    """
    if (file is None) == (resume_id is None):
        raise click.UsageError("give a FILE, or --resume RUN")
    settings = load(flags)
    configure_logging("warning" if not settings.debug else "info", sys.stderr)
    hide_secrets_of(settings)
    registry_settings = executor_settings(settings, is_local=True)
    graph, contract = None, None
    if file is not None:
        graph, contract = graph_of(read(file), ExecutorRegistry.from_entry_points(registry_settings))
    database = open_database(
        settings,
        exclusive=True,
        must_exist=graph is None,
        if_in_use="use `task-engine task submit --wait`, or another --data-dir",
    )
    try:
        if is_sqlite(settings.database):
            upgrade_schema(database)
        else:
            check_schema(database)
        code = asyncio.run(_Session(settings, database, as_json).run(graph, contract, resume_id or 0))
    finally:
        database.close()
    raise Exit(code)


class _Session:
    """One run from submit to summary, with its worker and the signals."""

    def __init__(self, settings: Settings, database: Database, as_json: bool) -> None:
        self._settings = settings
        self._database = database
        self._as_json = as_json
        self._interrupted = asyncio.Event()
        self._terminated = asyncio.Event()
        self._view: View = QuietView() if as_json else view()

    async def run(self, graph: Graph | None, contract: str | None, run_id: int) -> int:
        if graph is not None:
            run_id = (await submits.submit(self._database, graph, contract=contract)).run_id
        else:
            await self._take_up(run_id)
        await self._mention_others(run_id)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._on_interrupt, run_id)
        loop.add_signal_handler(signal.SIGTERM, self._terminated.set)
        settings = executor_settings(self._settings, is_local=True, protected=self._database.files)
        worker = Worker(
            self._database, ExecutorRegistry.from_entry_points(settings), worker_options(self._settings)
        )
        await worker.start()
        try:
            with self._view:
                await self._follow(run_id)
        finally:
            await worker.drain(0.0 if self._interrupted.is_set() else None)
        return await self._conclude(run_id)

    async def _take_up(self, run_id: int) -> None:
        """Make a stored run go on, whatever stopped it. A run that succeeded stays as it is."""
        stored = await runs.get(self._database, run_id)
        match stored.state:
            case RunState.FAILED | RunState.CANCELLED:
                await runs.retry(self._database, run_id)
            case RunState.PAUSED:
                await runs.resume(self._database, run_id)

    async def _mention_others(self, run_id: int) -> None:
        for state in (RunState.RUNNING, RunState.PENDING):
            for other in await runs.list_runs(self._database, state=state, limit=10):
                if other.id != run_id and not self._as_json:
                    note(f"note: run {other.id} in this database is unfinished and goes on too")

    async def _follow(self, run_id: int) -> None:
        """Show events until the run is over or we are told to leave."""
        progress = Progress(await runs.get(self._database, run_id))
        number = progress.run.events
        self._view.show(progress, [])
        cancelling: asyncio.Task[None] | None = None
        while not self._terminated.is_set():
            if self._interrupted.is_set() and cancelling is None:
                cancelling = asyncio.create_task(self._cancel(run_id))
            events = await runs.events(self._database, run_id, after=number, limit=_PAGE)
            progress.run = await runs.get(self._database, run_id)
            if cancelling is not None and cancelling.done():
                cancelling.result()  # a cancel that could not be stored is said now: the run may never end
            number = events[-1].number if events else number
            self._view.show(progress, progress.take(events))
            if progress.is_over and number >= progress.run.events:
                break
            if len(events) < _PAGE:
                await asyncio.sleep(_LOOK_SECONDS)
        if cancelling is not None:
            await cancelling

    async def _cancel(self, run_id: int) -> None:
        with suppress(Conflict):  # it ended at the same moment
            await runs.cancel(self._database, run_id, reason="interrupted")

    def _on_interrupt(self, run_id: int) -> None:
        if self._interrupted.is_set():
            self._view.__exit__(None, None, None)  # gives the terminal its cursor back
            note(f"left at once; go on with: task-engine run --resume {run_id}{self._where}")
            os._exit(INTERRUPTED)  # the worker's guardian ends what still runs
        self._interrupted.set()
        note("\ncancelling the run; Ctrl-C again leaves at once")

    @property
    def _where(self) -> str:
        """The flags that lead back to this database."""
        if self._settings.database_url is not None:
            return f" --db {shown(self._database.url)}"
        return "" if str(self._settings.data_dir) == "data" else f" --data-dir {self._settings.data_dir}"

    async def _conclude(self, run_id: int) -> int:
        summary = await read_summary(self._database, run_id)
        print_summary(summary, as_json=self._as_json)
        if summary.run.state is RunState.SUCCEEDED:
            return 0
        if not self._as_json:
            say(f"go on with: task-engine run --resume {run_id}{self._where}")
        if self._interrupted.is_set():
            return INTERRUPTED
        return TERMINATED if self._terminated.is_set() else FAILED
