"""One worker process of a pool: `python -m engine.worker.process`, told what to do through its input."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from engine.executors.registry import ExecutorRegistry
from engine.store.database import Database
from engine.telemetry import configure_logging
from engine.worker.pool import PoolSpec
from engine.worker.service import Worker


def main() -> None:
    spec = PoolSpec.from_line(sys.stdin.buffer.readline())
    configure_logging(spec.log_level)
    asyncio.run(work(spec))


async def work(spec: PoolSpec) -> None:
    """Work until SIGTERM (drain), a second SIGTERM (at once), or the end of our supervisor (drain)."""
    stop, force = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: force.set() if stop.is_set() else stop.set())
    loop.add_reader(sys.stdin.fileno(), _on_input, loop, stop)
    database = Database(spec.url, wake_others=spec.wake_others)
    try:
        settings = replace(
            spec.executor_settings,
            protected_files=(*spec.executor_settings.protected_files, *map(Path, database.files)),
        )
        worker = Worker(database, ExecutorRegistry.from_entry_points(settings), spec.options)
        await worker.start()
        await stop.wait()
        drain = asyncio.create_task(worker.drain())
        forced = asyncio.create_task(force.wait())
        await asyncio.wait({drain, forced}, return_when=asyncio.FIRST_COMPLETED)
        if not drain.done():
            # The guardian sees us go: it ends our tasks' processes and closes the session.
            os._exit(1)
        forced.cancel()
        await drain
    finally:
        database.close()


def _on_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Nothing is ever sent after the first line, so anything here is the end of our supervisor."""
    loop.remove_reader(sys.stdin.fileno())
    stop.set()


if __name__ == "__main__":
    main()
