"""Waiting for runs to end: one loop looks for all who wait, and only while somebody does."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from engine.errors import NotFound, StoreUnavailable
from engine.model.records import Run
from engine.model.states import FINAL_RUN_STATES, RunState
from engine.store import queries
from engine.store.database import Database, Transaction

_FIRST_SECONDS = 0.01
_LONGEST_SECONDS = 0.25
_SHARE = 4  # pauses last at least this many times as long as the look before


class Watch:
    """Looks after every pause; a hint that something was committed ends the pause early.

    The end of a run is not hinted by every database, so polling is what the answer rests on.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[int, list[asyncio.Future[Run]]] = {}
        self._seen: dict[int, RunState] = {}  # at the last look, of runs that somebody waits for
        self._loop = asyncio.get_running_loop()
        self._hint = asyncio.Event()
        self._handle: asyncio.Task[None] | None = None
        database.on_wake(self._on_wake)

    async def wait(self, run_id: int, timeout: float | None) -> Run:
        future: asyncio.Future[Run] = self._loop.create_future()
        self._waiting.setdefault(run_id, []).append(future)
        self._hint.set()
        if self._handle is None or self._handle.done():
            self._handle = asyncio.create_task(self._watch(), name="engine-wait")
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            state = self._seen.get(run_id, "not known yet")
            raise TimeoutError(
                f"run {run_id} has not ended after {timeout:g} seconds; its state is {state}"
            ) from None
        finally:
            self._forget(run_id, future)

    def _forget(self, run_id: int, future: asyncio.Future[Run]) -> None:
        futures = self._waiting.get(run_id, [])
        if future in futures:
            futures.remove(future)
        if not futures:
            self._waiting.pop(run_id, None)
            self._seen.pop(run_id, None)

    async def _watch(self) -> None:
        pause = _FIRST_SECONDS
        while self._waiting:
            began = time.monotonic()
            try:
                await self._look()
            except StoreUnavailable:
                pause = _LONGEST_SECONDS
            except Exception as error:  # those who wait have to learn of it
                self._fail(error)
                return
            took = time.monotonic() - began
            was_hinted = await self._pause(
                max(pause, took * _SHARE), least=max(_FIRST_SECONDS, took * _SHARE)
            )
            pause = _FIRST_SECONDS if was_hinted else min(pause * 1.5, _LONGEST_SECONDS)

    async def _pause(self, seconds: float, least: float) -> bool:
        """Sleep; however many hints come, at least for `least` seconds."""
        await asyncio.sleep(least)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hint.wait(), max(seconds - least, 0.0))
        was_hinted = self._hint.is_set()
        self._hint.clear()
        return was_hinted

    async def _look(self) -> None:
        found = await self._database.read(_runs, list(self._waiting))
        for run_id, run in found.items():
            if run is not None and run.state not in FINAL_RUN_STATES:
                if run_id in self._waiting:
                    self._seen[run_id] = run.state
                continue
            for future in self._waiting.pop(run_id, []):
                if future.done():
                    continue
                if run is None:
                    future.set_exception(NotFound(f"run not found: {run_id}"))
                else:
                    future.set_result(run)

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def _on_wake(self, queue: str) -> None:
        """From any thread, thousands of times a second."""
        if self._waiting and not self._hint.is_set():
            with suppress(RuntimeError):  # the loop is closing
                self._loop.call_soon_threadsafe(self._hint.set)

    async def close(self) -> None:
        self._database.off_wake(self._on_wake)
        if self._handle is not None:
            self._handle.cancel()
            await asyncio.gather(self._handle, return_exceptions=True)
        self._fail(StoreUnavailable("the engine was closed while somebody waited"))


def _runs(tx: Transaction, run_ids: list[int]) -> dict[int, Run | None]:
    return {run_id: queries.get_run(tx, run_id) for run_id in run_ids}
