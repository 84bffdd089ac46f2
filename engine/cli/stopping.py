"""Signals of long-running commands: the first asks for an orderly stop, the second ends all at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable

from engine.telemetry import emit

_FORCED = 1
_LAST_WORDS_SECONDS = 2.0


class Stopping:
    """`stop` is set by the first SIGTERM or SIGINT, `force` by the second. Made inside a running loop."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.force = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, signal.Signals(number).name)

    def _on_signal(self, name: str) -> None:
        emit("process.stopping", signal=name, at_once=self.stop.is_set())
        (self.force if self.stop.is_set() else self.stop).set()

    async def finish(self, work: Awaitable[object]) -> None:
        """Wait for `work`, the orderly end. If the second signal comes first, the process ends here."""
        ending = asyncio.ensure_future(work)
        forced = asyncio.create_task(self.force.wait())
        await asyncio.wait({ending, forced}, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        if not ending.done():
            # Time for a supervisor to kill its workers. A worker in this process has a guardian, which ends
            # its tasks' processes when we are gone.
            await asyncio.wait({ending}, timeout=_LAST_WORDS_SECONDS)
            os._exit(_FORCED)
        await ending
