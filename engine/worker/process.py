"""One worker process of a pool: `python -m engine.worker.process`, told what to do through its input."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
from contextlib import suppress

from engine.errors import EngineError, StoreUnavailable
from engine.executors.registry import ExecutorRegistry
from engine.store.database import Database
from engine.telemetry import configure_logging, emit
from engine.worker.pool import PoolSpec
from engine.worker.secrecy import hide_secrets
from engine.worker.service import Worker

_RETRY_SECONDS = 0.5
_EXIT_SECONDS = 10.0


def main() -> None:
    spec = PoolSpec.from_line(sys.stdin.buffer.readline())
    hide_secrets([spec.url])
    configure_logging(spec.log_level)
    try:
        asyncio.run(work(spec))
    except EngineError as error:  # ours to say, not to trace: an executor that cannot be loaded, for instance
        emit("worker.refused", level="error", reason=str(error))
        sys.exit(1)


async def work(spec: PoolSpec) -> None:
    """Work until SIGTERM (drain), a second SIGTERM (at once), or the end of our supervisor (drain)."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, stop)
    loop.add_reader(sys.stdin.fileno(), _on_input, loop, stop)
    database = Database(spec.url, wake_others=spec.wake_others, run_defaults=spec.run_defaults)
    try:
        registry = ExecutorRegistry.from_entry_points(spec.executor_settings)
        worker = Worker(database, registry, spec.options)
        if await _start(worker, stop):
            _collect_less()
            await stop.wait()
            await worker.drain()
    finally:
        _limit_the_rest()
        database.close()


async def _start(worker: Worker, stop: asyncio.Event) -> bool:
    """Start as soon as the database answers; False if we are stopped before."""
    is_told = False
    while not stop.is_set():
        try:
            await worker.start()
            return True
        except StoreUnavailable as error:
            if not is_told:
                emit("worker.start_delayed", level="warning", reason=str(error))
            is_told = True
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _RETRY_SECONDS)
    return False


def _collect_less() -> None:
    """What we allocate dies by its reference count: looking for cycles took a third of the time per task."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def _on_signal(stop: asyncio.Event) -> None:
    if stop.is_set():
        # The guardian sees us go: it ends our tasks' processes and closes the session.
        os._exit(1)
    stop.set()


def _limit_the_rest() -> None:
    """Threads of tasks, or of a database that does not answer, would keep the interpreter from ending."""
    timer = threading.Timer(_EXIT_SECONDS, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _on_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Nothing is ever sent after the first line, so anything here is the end of our supervisor."""
    loop.remove_reader(sys.stdin.fileno())
    stop.set()


if __name__ == "__main__":
    main()
