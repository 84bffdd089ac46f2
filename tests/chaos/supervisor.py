"""A pool of worker processes on its own (`python -m tests.chaos.supervisor`); its input says what to run."""

from __future__ import annotations

import asyncio
import signal
import sys

from engine.telemetry import configure_logging
from engine.worker.pool import PoolSpec, run_pool


async def main() -> None:
    spec = PoolSpec.from_line(sys.stdin.buffer.readline())
    configure_logging(spec.log_level)
    stop, force = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def orphaned() -> None:  # nothing is sent after the first line: this is the end of the test's process
        loop.remove_reader(sys.stdin.fileno())
        force.set()
        stop.set()

    loop.add_reader(sys.stdin.fileno(), orphaned)
    await run_pool(spec, stop, force)


if __name__ == "__main__":
    asyncio.run(main())
