"""Outcomes on their way into the database: gathered while a write is under way, never dropped."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

from engine.errors import StoreUnavailable
from engine.model.outcomes import Failed, Outcome
from engine.model.records import Lease
from engine.operations import tasks
from engine.store.database import Busy, Database
from engine.telemetry import emit
from engine.worker.claimer import Claimer
from engine.worker.logbook import Line, Logbook

MAX_BATCH = 1_000
_LOG_SECONDS = 0.5
_RETRY_SECONDS = 0.25


class Finisher:
    """Writes outcomes in batches: at once when idle, and whatever has gathered while it was writing.

    `lanes` writes may be under way at once: while the database is busy with one, what it answered to the
    other is worked on.

    An unknown answer is repeated until the database says what happened; the fence makes that harmless.
    """

    def __init__(
        self,
        database: Database,
        book: Logbook,
        claimer: Claimer,
        actor: str,
        lanes: int,
    ) -> None:
        self._database = database
        self._claimer = claimer
        self._book = book
        self.actor = actor
        self._ended: list[tuple[Lease, Outcome]] = []
        self._writing: list[list[tuple[Lease, Outcome]]] = []
        self._lanes = lanes
        self._is_starting = False  # a write is about to take what has ended
        self._writes: set[asyncio.Task[None]] = set()
        self._writing_logs = asyncio.Lock()
        self._are_lines_stuck = False  # the last write of some failed, and none has gone through since
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, lease: Lease, outcome: Outcome) -> None:
        self._ended.append((lease, outcome))
        self._idle.clear()
        self._start()

    @property
    def task_ids(self) -> set[int]:
        """Tasks whose outcome is not known to be recorded yet."""
        return {lease.task_id for batch in (self._ended, *self._writing) for lease, _ in batch}

    @property
    def is_due(self) -> bool:
        """A write is about to begin."""
        return bool(self._ended) and len(self._writing) < self._lanes

    def _start(self) -> None:
        """Write what has ended when it is this task's turn: with what ends in the same round of the loop."""
        if self.is_due and not self._is_starting:
            self._is_starting = True
            write = asyncio.get_running_loop().create_task(self._write_all())
            self._writes.add(write)
            write.add_done_callback(self._writes.discard)

    async def _write_all(self) -> None:
        self._is_starting = False
        batch, self._ended = self._ended[:MAX_BATCH], self._ended[MAX_BATCH:]
        self._writing.append(batch)
        self._start()
        try:
            await self._write(batch)
        except Exception as error:  # a defect of ours; what was recorded is recognised
            emit("worker.loop_failed", level="error", loop="write", error=repr(error))
            await asyncio.sleep(_RETRY_SECONDS)
            self._ended += batch
        self._writing.remove(batch)
        self._start()
        if not self._ended and not self._writing:
            self._idle.set()

    async def _write(self, batch: list[tuple[Lease, Outcome]]) -> None:
        try:
            lost = await self._finish(batch)
        except (
            Exception
        ) as error:  # something in the batch cannot be written: find out what, lose the rest not
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._write(batch[:middle])
                await self._write(batch[middle:])
                return
            lost = await self._give_up(batch[0], error)
        self._claimer.ended(lease for lease, _ in batch)
        for lease in lost:
            emit("task.outcome_late", level="warning", task=lease.task_id, attempt=lease.attempt)

    async def _finish(self, batch: list[tuple[Lease, Outcome]]) -> list[Lease]:
        tries = 0
        alone = not self._claimer.may_claim
        while True:
            try:
                # Before the outcomes: readers expect it, and the next attempt has lines of this one refused.
                # But output is worth less than outcomes, and does not hold them up.
                if not self._are_lines_stuck:
                    with suppress(StoreUnavailable):
                        await self.write_logs()
                if not tries and not alone:
                    return await self._claimer.claim_along(batch)
                self._claimer.look_again()
                return await tasks.finish(self._database, batch, actor=self.actor)
            except Busy:
                alone = True
            except StoreUnavailable as error:
                tries += 1
                if tries == 1:
                    emit("worker.finish_delayed", level="warning", outcomes=len(batch), reason=str(error))
                await asyncio.sleep(min(_RETRY_SECONDS * tries, 2.0) * random.uniform(0.5, 1.5))

    async def _give_up(self, ended: tuple[Lease, Outcome], error: Exception) -> list[Lease]:
        """The database refuses this outcome: record that instead, so the task ends."""
        lease, outcome = ended
        emit("task.outcome_refused", level="error", task=lease.task_id, error=repr(error))
        text = f"the outcome ({type(outcome).__name__.lower()}) cannot be stored: {type(error).__name__}"
        refused = Failed(text, code="result_unstorable", source="store", is_permanent=True)
        try:
            return await self._finish([(lease, refused)])
        except Exception as again:  # a defect of ours; the task is taken back when this session ends
            emit("task.outcome_dropped", level="error", task=lease.task_id, error=repr(again))
            return [lease]

    async def write_logs(self) -> None:
        """Write the lines that have gathered. Raises `StoreUnavailable`: they wait for the next call.

        Lines that were stored although the answer was lost are not stored again: they have numbers.
        """
        # One at a time: lines that another call is writing must be stored before their outcome is.
        async with self._writing_logs:
            left = len(self._book)
            while left > 0:
                lines = self._book.first(min(left, MAX_BATCH))
                await self._append(lines)
                self._book.remove(len(lines))
                left -= len(lines)
            self._are_lines_stuck = False
        if lost := self._book.take_lost():
            emit("worker.output_lost", level="warning", lines=lost)

    async def _append(self, lines: list[Line]) -> None:
        try:
            await tasks.append_logs(self._database, lines)
        except StoreUnavailable:
            self._are_lines_stuck = True
            raise
        except Exception as error:  # output that cannot be stored costs no outcome
            emit("task.output_dropped", level="error", lines=len(lines), error=repr(error))

    async def write_logs_often(self) -> None:
        while True:
            await asyncio.sleep(_LOG_SECONDS)
            with suppress(StoreUnavailable):
                await self.write_logs()

    async def flushed(self) -> None:
        """Wait until every outcome that was added is recorded."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Give up what is still being written; the fence makes it harmless to have gone through. Lines get
        one more try."""
        writes = list(self._writes)
        for write in writes:
            write.cancel()
        await asyncio.gather(*writes, return_exceptions=True)
        try:
            await self.write_logs()
        except StoreUnavailable as error:
            lost = len(self._book) + self._book.take_lost()
            emit("worker.output_lost", level="warning", lines=lost, reason=str(error))
