"""The worker's side of its guardian: keeps one running, and knows until when the lease certainly holds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from engine.store.beat import BeatTarget
from engine.telemetry import emit
from engine.worker.guardian import boot_time, lease_margin, order_line

_RESTART_SECONDS = 0.5
_STOP_SECONDS = 5.0


class Lifeline:
    """Starts a guardian for one session, reads what it says, and replaces it if it dies.

    `is_safe` is False once no beat was known to succeed for `lease_seconds` less a margin, counted from
    when the beat was *sent*: from then on others may take our tasks, so we must not start any.
    `on_lost` is called once, if others have ended the session.
    """

    def __init__(
        self, target: BeatTarget, *, beat_seconds: float, lease_seconds: float, on_lost: Callable[[], None]
    ) -> None:
        self._target = target
        self._beat_seconds = beat_seconds
        self._lease_seconds = lease_seconds
        self._on_lost = on_lost
        self._is_lost = False
        self._beats_matter = target.postgres is not None or target.sqlite is not None
        self._last_beat = boot_time()
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._is_stopping = False

    async def start(self) -> None:
        self._process = await self._spawn()
        self._keeper = asyncio.create_task(self._keep(self._process), name="engine-lifeline")

    async def _spawn(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "engine.worker.guardian",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a signal to our group must not take the guardian with us
        )
        assert process.stdin is not None
        with suppress(OSError):  # it died already: the end of its output says so as well
            process.stdin.write(order_line(self._target, self._beat_seconds, self._lease_seconds))
            await process.stdin.drain()
        return process

    @property
    def is_safe(self) -> bool:
        if self._is_lost:
            return False
        margin = lease_margin(self._beat_seconds, self._lease_seconds)
        return not self._beats_matter or boot_time() - self._last_beat < self._lease_seconds - margin

    @property
    def guardian_pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        while True:
            await self._read(process)
            await process.wait()
            if self._is_stopping:
                return
            emit("worker.guardian_died", level="warning", session=self._target.session_id)
            await asyncio.sleep(_RESTART_SECONDS)
            while not self._is_stopping:
                try:
                    self._process = process = await self._spawn()
                    break
                except OSError as error:  # no memory, processes or descriptors left
                    emit("worker.guardian_missing", level="error", reason=str(error))
                    await asyncio.sleep(_RESTART_SECONDS)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            word, _, rest = line.decode().strip().partition(" ")
            if word == "beat":
                self._last_beat = float(rest)
            elif word == "lost" and not self._is_lost:
                self._is_lost = True
                self._on_lost()

    async def stop(self) -> None:
        self._is_stopping = True
        process = self._process
        if process is None or self._keeper is None:
            return
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(b"bye\n")
            await process.stdin.drain()
            process.stdin.close()
        done, _ = await asyncio.wait({self._keeper}, timeout=_STOP_SECONDS)
        if not done:
            with suppress(ProcessLookupError):
                process.kill()
            await self._keeper
