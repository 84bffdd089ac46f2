"""One stream at work: read, store if it must be, gather batches, have them handled, commit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from engine.errors import EngineError
from engine.model.json import JSON, storable_text
from engine.model.realtime import RealtimeTask
from engine.streams.buffer import Buffer, Entry
from engine.streams.events import EventType, StreamState
from engine.streams.handling import Handled, Handling
from engine.streams.metrics import Metrics
from engine.streams.ports import Batch, Log, Report, Standing, StreamStore
from engine.streams.reader import Reader, SourceLost
from engine.streams.sources import Source
from engine.streams.telling import Teller

LOOK_SECONDS = 1.0  # between looks whether the run is paused, and between reports of what has changed
QUIET_SECONDS = 10.0  # between reports of a stream that does nothing
_KEEP = 1_000  # items stored in one transaction
_KEEP_BYTES = 4 * 1024 * 1024  # likewise, unless it is a single one
_MAX_REASON = 500
_HANDLER = "handler_failed"
_SOURCE = "source_lost"


@dataclass(frozen=True, slots=True)
class Done:
    """`was_stopped`: there would have been more. `document` is what its progress showed last."""

    was_stopped: bool
    document: JSON


class Stream:
    """One attempt at a streaming task. `run` is called once; `stop` has it return soon.

    What has been committed is never handled again; what has not will be, by the attempt that comes next.
    """

    def __init__(
        self,
        task: RealtimeTask,
        source: Source,
        store: StreamStore,
        handling: Handling,
        teller: Teller,
        report: Report,
        log: Log,
    ) -> None:
        self._task = task
        self._source = source
        self._store = store
        self._handling = handling
        self._teller = teller
        self._report = report
        self._log = log
        self._buffer = Buffer(task.buffer_size, task.backpressure)
        self._stopping = asyncio.Event()
        self._is_paused = False
        self._is_failing = False
        self._looked_at = 0.0
        self._shown: dict[str, JSON] = {}
        self._shown_at = 0.0
        self._reading: asyncio.Task[None] | None = None
        self._metrics = Metrics()
        self._batches = 0
        self._batches_before = 0

    @property
    def has_progressed(self) -> bool:
        """Whether it has dealt with anything."""
        return self._batches > self._batches_before

    def stop(self) -> None:
        """Read no more, deal with what is in the buffer unless the run is paused, and end."""
        self._teller.state = StreamState.STOPPING
        self._teller.is_connected = False
        self._stopping.set()
        if self._reading is not None:
            self._reading.cancel()
        self._buffer.close()

    async def run(self) -> Done:
        """Until the source is over or `stop`. Raises `SourceLost`, `LeaseLost`, or what nothing mends."""
        standing = await self._store.open()
        self._metrics = _metrics(standing)
        self._batches = self._batches_before = standing.batches
        self._reader = Reader(
            self._source,
            self._buffer,
            self._store,
            self._teller,
            self._metrics,
            self._task.reconnect,
            standing,
        )
        why = "its first attempt" if standing.is_first else "goes on where another attempt ended"
        await self._teller.moved(EventType.TASK_STARTED, StreamState.RUNNING, why)
        await self._pause(standing.is_paused)
        try:
            await self._work()
        except BaseException:
            self._teller.state = StreamState.ERROR
            raise
        return await self._end()

    async def _work(self) -> None:
        self._reading = asyncio.create_task(self._reader.run(), name="stream-read")
        if self._stopping.is_set():  # before there was anything to cancel
            self._reading.cancel()
        working = [asyncio.create_task(self._make_batches(), name="stream-batches")]
        if not self._source.replayable:
            working.append(asyncio.create_task(self._keep(), name="stream-keep"))
        try:
            for handle in asyncio.as_completed(working):  # the first that fails, or was cancelled, ends both
                await handle
        finally:
            for handle in (self._reading, *working):
                handle.cancel()
            await asyncio.gather(self._reading, *working, return_exceptions=True)

    async def _end(self) -> Done:
        error = self._reading_error()
        await self._teller.settle(is_over=True)
        if error is not None:
            code = _SOURCE if isinstance(error, SourceLost) else type(error).__name__
            if isinstance(error, SourceLost):
                await self._teller.failed(code, str(error), recoverable=False)
            await self._teller.moved(EventType.TASK_STOPPED, StreamState.ERROR, _reason(error))
            await self._show()
            raise error
        was_stopped = self._stopping.is_set()
        why = "it was told to stop" if was_stopped else "its source is over"
        await self._teller.moved(EventType.TASK_STOPPED, StreamState.STOPPED, why)
        return Done(was_stopped, await self._show())

    def _reading_error(self) -> BaseException | None:
        assert self._reading is not None
        return None if self._reading.cancelled() else self._reading.exception()

    # --- items that cannot be read again

    async def _keep(self) -> None:
        """Store what comes, as much at once as has come meanwhile. Only then it may be handled."""
        while entries := await self._buffer.unready(_KEEP, _KEEP_BYTES):
            payloads = [entry.item.payload for entry in entries]
            first = await self._store.keep(payloads, is_connected=self._teller.is_connected)
            for number, entry in enumerate(entries, first):
                entry.number = number
            self._buffer.make_ready(len(entries))

    # --- batches

    async def _make_batches(self) -> None:
        while True:
            entries = await self._next()
            if self._is_paused and self._stopping.is_set():  # what is in the buffer is for another attempt
                return
            if entries:
                await self._process(entries)
            elif self._buffer.is_over:
                return

    async def _next(self) -> list[Entry]:
        """The next batch: as soon as it is full, or what there is when the interval is over."""
        until = time.monotonic() + self._task.flush_interval_ms / 1000
        size = self._task.batch_size
        while True:
            await self._look_now_and_then()
            while self._is_paused and not self._stopping.is_set():
                await self._wait(LOOK_SECONDS)
                await self._pause(await self._store.look())
            if self._is_paused:
                return []
            left = until - time.monotonic()
            if left <= 0:
                return self._taken()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, LOOK_SECONDS)):
                    await self._buffer.filled(size)
                    return self._taken()

    def _taken(self) -> list[Entry]:
        return self._buffer.take(self._task.batch_size)

    async def _process(self, entries: Sequence[Entry]) -> None:
        number = self._batches + 1
        await self._teller.pressure(self._buffer)
        await self._teller.batched(entries, number)
        handled = await self._handling.handle(entries, number)
        dropped, self._reader.dropped = self._reader.dropped, 0
        batch = Batch(
            number=number,
            first=entries[0].number,
            last=entries[-1].number,
            size=len(entries),
            failed=handled.failed,
            dropped=dropped,
            offset=entries[-1].item.offset,
            result=handled.result,
            error=handled.error,
        )
        is_paused = await self._store.commit(
            batch, self._teller.state, is_connected=self._teller.is_connected
        )
        self._batches = number
        self._count(entries, handled)
        await self._tell_of_failure(handled)
        await self._teller.processed(entries, number)
        await self._pause(is_paused)

    def _count(self, entries: Sequence[Entry], handled: Handled) -> None:
        metrics, now = self._metrics, time.monotonic()
        metrics.batches += 1
        metrics.failed += handled.failed
        metrics.processed += len(entries) - handled.failed
        metrics.handled(len(entries), sum(now - entry.came_at for entry in entries))

    async def _tell_of_failure(self, handled: Handled) -> None:
        """The history says when batches began to fail, and when they were fine again."""
        if handled.error is not None and self._is_failing:
            await self._teller.failed_again(_HANDLER, handled.error)
        elif handled.error is not None:
            await self._teller.failed(_HANDLER, handled.error, recoverable=True)
        elif self._is_failing:
            await self._teller.recovered(_HANDLER)
        self._is_failing = handled.error is not None

    # --- pauses and reports

    async def _look_now_and_then(self) -> None:
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        await self._pause(await self._store.look())
        await self._teller.settle()
        self._looked_at = time.monotonic()
        has_changed = {**self._document(), "uptime_seconds": None} != {**self._shown, "uptime_seconds": None}
        if has_changed or self._looked_at - self._shown_at >= QUIET_SECONDS:
            await self._show()

    async def _pause(self, is_paused: bool) -> None:
        if is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        if is_paused:
            self._reader.pause()
            await self._teller.moved(EventType.TASK_PAUSED, StreamState.PAUSED, "its run is paused")
        else:
            await self._teller.moved(EventType.TASK_RESUMED, StreamState.RUNNING, "its run was resumed")
            self._reader.resume()
        await self._show()

    async def _show(self) -> JSON:
        document = self._document()
        self._shown, self._shown_at = document, time.monotonic()
        try:
            await self._report(document)
        except EngineError as error:  # the lease is lost: the next commit says so as well
            self._log(f"progress: {error}")
        return document

    def _document(self) -> dict[str, JSON]:
        return self._metrics.document(self._teller.state, len(self._buffer), self._buffer.usage)

    async def _wait(self, seconds: float) -> None:
        """Less if the stream is told to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _reason(error: BaseException) -> str:
    return storable_text(str(error)[:_MAX_REASON])


def _metrics(standing: Standing) -> Metrics:
    return Metrics(
        processed=standing.processed,
        failed=standing.failed,
        dropped=standing.dropped,
        batches=standing.batches,
        gaps=standing.gaps,
    )
