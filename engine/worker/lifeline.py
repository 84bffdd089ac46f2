"""The worker's side of its guardian: starts it, and knows until when the lease certainly holds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from engine.store.beat import BeatTarget
from engine.worker.guardian import boot_time, order_line


class Lifeline:
    """Starts a guardian for one session and reads what it says.

    `is_safe` is False once no beat was known to succeed for `lease_seconds` less a margin, counted from
    when the beat was *sent*: from then on others may take our tasks, so we must not start any.
    """

    def __init__(
        self, target: BeatTarget, *, beat_seconds: float, lease_seconds: float, on_lost: Callable[[], None]
    ) -> None:
        self._target = target
        self._beat_seconds = beat_seconds
        self._lease_seconds = lease_seconds
        self._on_lost = on_lost
        self._beats_matter = target.postgres is not None or target.sqlite is not None
        self._last_beat = boot_time()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "engine.worker.guardian",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a signal to our group must not take the guardian with us
        )
        assert self._process.stdin is not None
        self._process.stdin.write(order_line(self._target, self._beat_seconds))
        await self._process.stdin.drain()
        self._reader = asyncio.create_task(self._read(), name="engine-lifeline")

    @property
    def is_safe(self) -> bool:
        margin = min(self._beat_seconds, self._lease_seconds / 4)
        return not self._beats_matter or boot_time() - self._last_beat < self._lease_seconds - margin

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        async for line in self._process.stdout:
            word, _, rest = line.decode().strip().partition(" ")
            if word == "beat":
                self._last_beat = float(rest)
            elif word == "lost":
                self._on_lost()

    @property
    def is_guarded(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def stop(self) -> None:
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(b"bye\n")
            await process.stdin.drain()
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 5.0)
        except TimeoutError:
            process.kill()
            await process.wait()
        if self._reader is not None:
            await self._reader
