"""What happens to runs, told to any number of readers as it is written to the event table.

One `Tail` per server looks for all readers together: rows of the runs that somebody follows, then the events
of those that changed. Readers take from what was read last and, if they are behind that, from the table, each
at its own pace: nobody waits for a slow one, and nothing is queued for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from engine.api.positions import EPOCH, Position
from engine.errors import NotFound
from engine.model.json import MAX_INT
from engine.model.records import Run
from engine.store import streams as queries
from engine.store.database import Database, Transaction
from engine.store.streams import Page, Span, Told

POLL_SECONDS = 0.5
_GAP_SECONDS = 0.05  # between looks that hints ask for
_LOOK_EVENTS = 2_000
_PAGE_EVENTS = 200
_RECENT_EVENTS = 10_000  # kept for all readers together
_TABLE_READERS = 2  # at once: those who catch up leave connections to others
_SHARE = 0.05  # of the time may go into looking through all runs of a workflow
_LAG = timedelta(seconds=60)  # how long before now a run must have ended to be left out of cursors
_STEP = timedelta(seconds=10)
_ENDED_RUNS = 100
_ENDING = timedelta(seconds=1)  # a transaction that ends runs takes less
_logger = logging.getLogger("engine.api")


@dataclass(eq=False, slots=True)
class Followed:
    """A run that somebody follows: its row at the last look, and its newest events."""

    run: Run
    newest: int  # number of the last event that was read, or need not be
    recent: deque[Told] = field(default_factory=deque)
    readers: set[asyncio.Event] = field(default_factory=set)
    parents: set[FollowedWorkflow] = field(default_factory=set)
    is_gone: bool = False

    def wake(self) -> None:
        _wake(self.readers)
        for parent in self.parents:
            _wake(parent.readers)

    def end_before(self, moment: datetime) -> int | None:
        """The number of the event that ended the run last by then, 0 for none; None if that is not known."""
        if not self.recent or self.recent[0].number != 1:
            return None
        ends = (t.number for t in self.recent if queries.is_end(t) and t.event.at <= moment)
        return max(ends, default=0)


@dataclass(eq=False, slots=True)
class FollowedWorkflow:
    """`runs` are those that have not ended, or ended after `horizon`; and a few more."""

    id: str
    horizon: datetime
    newest_id: int
    left_until: datetime  # runs that ended until then may be missing from `runs`
    runs: dict[int, Followed] = field(default_factory=dict)
    readers: set[asyncio.Event] = field(default_factory=set)
    look_at: float = 0.0  # when all of them are to be looked through again
    looked: int = 0  # the number of the look when they were
    arriving: set[asyncio.Event] = field(default_factory=set)  # readers that wait for that
    is_gone: bool = False

    def position(self) -> Position:
        """What has happened so far is seen."""
        return Position(self.horizon, {run_id: item.run.events for run_id, item in self.runs.items()})


def _wake(readers: Iterable[asyncio.Event]) -> None:
    for woken in readers:
        woken.set()


class Tail:
    """The end of the event table, as far as anybody reads it. Works only while there are readers."""

    def __init__(self, database: Database, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._runs: dict[int, Followed] = {}
        self._workflows: dict[str, FollowedWorkflow] = {}
        self._order: deque[Followed] = deque()  # whose event was read when
        self._table = asyncio.Semaphore(_TABLE_READERS)
        self._handle: asyncio.Task[None] | None = None
        self._hint = asyncio.Event()
        self._is_hinted = False
        self._looks = 0

    # --- readers

    @asynccontextmanager
    async def run(self, run: Run) -> AsyncIterator[tuple[Followed, asyncio.Event]]:
        """Follow one run; `run` is its row as it was read last. The event is set when there may be more."""
        followed = self._runs.setdefault(run.id, Followed(run, run.events))
        with self._reader(followed.readers) as woken:
            try:
                yield followed, woken
            finally:
                followed.readers.discard(woken)
                self._leave(followed)

    async def pages(self, followed: Followed, woken: asyncio.Event, after: int) -> AsyncGenerator[Page, None]:
        """Events of a run above `after`, for ever. Raises `NotFound` once the run has been removed."""
        while True:
            woken.clear()
            if after >= followed.newest and not followed.is_gone:
                await woken.wait()
                continue
            found = await self._page(followed, after)
            if found is None:
                raise NotFound(f"instance not found: {followed.run.id}")
            if found.events:
                after = found.events[-1].number
                yield found

    @asynccontextmanager
    async def workflow(self, workflow_id: str) -> AsyncIterator[tuple[FollowedWorkflow, asyncio.Event]]:
        """Follow all runs of a workflow."""
        opening = None
        if workflow_id not in self._workflows:
            opening = await self._database.read(_open, workflow_id)
        followed = self._workflows.get(workflow_id)
        if followed is None:
            if opening is None:  # the last reader left meanwhile
                opening = await self._database.read(_open, workflow_id)
            followed = self._workflows.setdefault(workflow_id, opening[0])
            self._join(followed, opening[1])
        with self._reader(followed.readers) as woken:
            try:
                yield followed, woken
            finally:
                followed.readers.discard(woken)
                followed.arriving.discard(woken)
                if not followed.readers:
                    self._workflows.pop(workflow_id, None)
                    self._part(followed, list(followed.runs.values()))

    async def workflow_pages(
        self, followed: FollowedWorkflow, woken: asyncio.Event, position: Position
    ) -> AsyncGenerator[Page, None]:
        """Events of a workflow's runs behind `position`, for ever. Who takes them moves the position.

        Raises `NotFound` once the workflow has been deleted and all is told.
        The position may come from another server that has seen more: first this one looks, too.
        """
        wanted = self._looks + 1
        followed.arriving.add(woken)
        self._hint.set()
        while followed.looked < wanted:
            woken.clear()
            await woken.wait()
        followed.arriving.discard(woken)
        while True:
            woken.clear()
            is_gone = followed.is_gone  # asked before what there is to tell
            while position.until < followed.left_until:
                async for page in self._ended(followed, position):
                    yield page
            horizon, runs = followed.horizon, dict(followed.runs)
            targets = {run_id: max(item.newest, item.run.events) for run_id, item in runs.items()}
            await self._begin(runs, position)
            is_quiet = True
            for run_id, target in targets.items():
                while position.marks[run_id] < target:
                    found = await self._page(runs[run_id], position.marks[run_id], target)
                    if found is None or not found.events:
                        break
                    is_quiet = False
                    yield found
            position.settle(horizon, runs)
            if is_quiet and is_gone:
                raise NotFound(f"workflow not found: {followed.id}")
            if is_quiet:
                await woken.wait()

    async def _begin(self, runs: Mapping[int, Followed], position: Position) -> None:
        """Where to begin in runs that the position says nothing about."""
        unknown = []
        for run_id in runs.keys() - position.marks.keys():
            end = runs[run_id].end_before(position.until)
            if end is None:
                unknown.append(run_id)
            else:
                position.marks[run_id] = end
        await self._look_up(unknown, position)

    async def _look_up(self, run_ids: list[int], position: Position) -> None:
        if not run_ids:
            return
        async with self._table:
            ends = await self._database.read(queries.last_ends, run_ids, position.until)
        position.marks.update((run_id, ends.get(run_id, 0)) for run_id in run_ids)

    async def _ended(self, followed: FollowedWorkflow, position: Position) -> AsyncGenerator[Page, None]:
        """What the position lacks of runs that ended long ago, in the order of their ends."""
        horizon, limit = followed.horizon, _ENDED_RUNS
        while position.until < horizon:
            async with self._table:
                found, times, alive = await self._database.read(
                    _ended_and_alive, followed.id, position.until, horizon, limit
                )
            is_last = len(found) < limit
            batch = found if is_last else [run for run in found if run.finished_at != found[-1].finished_at]
            if found and not batch:
                limit *= 2  # all of them ended at one moment
                continue
            # Those that were retried have ended within this time, too, and are told elsewhere: from now on
            # they need marks.
            matter = [*(run.id for run in batch), *alive]
            await self._look_up([run_id for run_id in matter if run_id not in position.marks], position)
            for run in batch:
                while position.marks[run.id] < run.events:
                    page = await self._from_table(run.id, position.marks[run.id], run.events)
                    if page is None or not page.events:
                        break
                    yield page
            ended = [_end_of(run, times) for run in batch]
            position.until = max([*ended, horizon] if is_last else ended)
            for run in batch:
                del position.marks[run.id]

    async def _page(self, followed: Followed, after: int, upto: int = MAX_INT) -> Page | None:
        recent = followed.recent
        if not followed.is_gone and recent and recent[0].number <= after + 1 <= recent[-1].number:
            begin = after + 1 - recent[0].number
            return Page(followed.run, list(islice(recent, begin, begin + _PAGE_EVENTS)))
        return await self._from_table(followed.run.id, after, upto)

    async def _from_table(self, run_id: int, after: int, upto: int) -> Page | None:
        async with self._table:
            span = Span(after, min(upto, after + _PAGE_EVENTS))
            return await self._database.read(queries.page, run_id, span)

    @contextmanager
    def _reader(self, readers: set[asyncio.Event]) -> Iterator[asyncio.Event]:
        woken = asyncio.Event()
        readers.add(woken)
        if self._handle is None or self._handle.done():
            self._handle = asyncio.create_task(self._work())
        yield woken

    def _join(self, followed: FollowedWorkflow, runs: Iterable[Run]) -> None:
        for run in runs:
            item = self._runs.setdefault(run.id, Followed(run, run.events))
            item.parents.add(followed)
            followed.runs[run.id] = item

    def _part(self, followed: FollowedWorkflow, items: Iterable[Followed]) -> None:
        for item in items:
            followed.runs.pop(item.run.id, None)
            item.parents.discard(followed)
            self._leave(item)

    def _leave(self, item: Followed) -> None:
        if not item.readers and not item.parents and self._runs.get(item.run.id) is item:
            del self._runs[item.run.id]
            item.recent.clear()

    # --- looking

    async def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            with suppress(asyncio.CancelledError):
                await self._handle

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()

        def hinted(_: str) -> None:
            if not self._is_hinted:
                self._is_hinted = True
                with suppress(RuntimeError):  # the loop has been closed
                    loop.call_soon_threadsafe(self._hint.set)

        self._database.on_wake(hinted)
        try:
            while self._runs or self._workflows:
                self._hint.clear()
                self._is_hinted = False
                is_whole = await self._look_safely()
                await asyncio.sleep(_GAP_SECONDS)
                if is_whole:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._poll_seconds - _GAP_SECONDS):
                            await self._hint.wait()
        finally:
            self._database.off_wake(hinted)
            self._order.clear()

    async def _look_safely(self) -> bool:
        """Whether all there was has been read."""
        try:
            return await self._look()
        except Exception as error:  # readers wait; the next look tries again
            _logger.warning("streams.look_failed", extra={"fields": {"error": str(error)[:200]}})
            return True

    async def _look(self) -> bool:
        workflows = self._workflows
        moment = time.monotonic()
        self._looks += 1
        number = self._looks
        due = {w.id: w.horizon for w in workflows.values() if w.arriving or moment >= w.look_at}
        asked = _Question(
            {run_id: item.newest for run_id, item in self._runs.items()},
            {w.id: w.newest_id for w in workflows.values()},
            due,
        )
        if not asked.newest and not asked.newest_ids:
            return True
        seen = await self._database.read(_answer, asked)
        for workflow_id, run_id in seen.joined:
            if workflow_id in workflows and run_id not in workflows[workflow_id].runs:
                followed = workflows[workflow_id]
                followed.newest_id = max(followed.newest_id, run_id)
                begin = seen.spans[run_id].above if run_id in seen.spans else seen.runs[run_id].events
                item = self._runs.setdefault(run_id, Followed(seen.runs[run_id], begin))
                item.parents.add(followed)
                followed.runs[run_id] = item
                item.wake()
        self._take(asked, seen)
        for workflow_id, seconds in seen.seconds.items():
            if workflow_id in workflows:
                followed = workflows[workflow_id]
                followed.look_at = time.monotonic() + seconds / _SHARE
                followed.looked = number
                self._advance(followed, seen.now)
                _wake(followed.arriving)
        for workflow_id in seen.gone & workflows.keys():
            workflows[workflow_id].is_gone = True
            _wake(workflows[workflow_id].readers)
        return seen.is_whole

    def _take(self, asked: _Question, seen: _Seen) -> None:
        changed = set()
        for run_id, run in seen.runs.items():
            item = self._runs.get(run_id)
            if item is not None and run.events >= item.run.events:
                if run != item.run:
                    changed.add(item)
                item.run = run
        for told in seen.told:
            item = self._runs.get(told.event.run_id)
            if item is not None and told.number == item.newest + 1:
                item.recent.append(told)
                item.newest = told.number
                self._order.append(item)
                changed.add(item)
        while len(self._order) > _RECENT_EVENTS:
            oldest = self._order.popleft()
            if oldest.recent:
                oldest.recent.popleft()
        for run_id in asked.newest.keys() - seen.runs.keys():
            if run_id in self._runs:
                gone = self._runs[run_id]
                gone.is_gone = True
                changed.add(gone)
                for parent in list(gone.parents):
                    self._part(parent, [gone])
        for item in changed:
            item.wake()

    def _advance(self, followed: FollowedWorkflow, now: datetime) -> None:
        """Now and then, leave out runs that ended before the horizon: by now every reader has seen them."""
        horizon = now - _LAG
        if horizon - followed.horizon < _STEP:
            return
        old = [
            item
            for item in followed.runs.values()
            if item.run.finished_at is not None
            and item.run.finished_at <= followed.horizon
            and item.newest >= item.run.events
        ]
        for item in old:
            assert item.run.finished_at is not None
            followed.left_until = max(followed.left_until, item.run.finished_at)
        self._part(followed, old)
        followed.horizon = horizon
        _wake(followed.readers)


@dataclass(frozen=True, slots=True)
class _Question:
    newest: dict[int, int]  # by run
    newest_ids: dict[str, int]  # by workflow
    due: dict[str, datetime]  # workflows to be looked through, and from when on ends matter


@dataclass(slots=True)
class _Seen:
    runs: dict[int, Run]
    spans: dict[int, Span]
    told: list[Told]
    joined: list[tuple[str, int]]
    seconds: dict[str, float]
    gone: set[str]
    now: datetime
    is_whole: bool


def _answer(tx: Transaction, asked: _Question) -> _Seen:
    now = queries.now(tx) if asked.due else EPOCH
    # First, so that all that their runs did is read afterwards.
    gone = asked.due.keys() - queries.workflows(tx, asked.due) if asked.due else set()
    joined: list[tuple[str, int]] = []
    seconds, rows = {}, {}
    for workflow_id, horizon in asked.due.items():
        began = time.monotonic()
        for run in queries.alive(tx, workflow_id, horizon):
            joined.append((workflow_id, run.id))
            rows[run.id] = run
        seconds[workflow_id] = time.monotonic() - began
    newer = queries.newer(tx, asked.newest_ids) if asked.newest_ids else {}
    joined += [(workflow_id, run_id) for run_id, workflow_id in newer.items() if run_id not in rows]
    rows |= queries.runs(tx, asked.newest.keys() | newer.keys())
    joined = [(workflow_id, run_id) for workflow_id, run_id in joined if run_id in rows]
    spans: dict[int, Span] = {}
    left = _LOOK_EVENTS
    for run_id, run in rows.items():
        # Of a run that is new here all events are read, unless it is an old one that goes on.
        above = asked.newest.get(run_id, 0 if run.events <= _PAGE_EVENTS else run.events)
        if run.events > above:
            spans[run_id] = Span(above, min(run.events, above + left))
            left -= spans[run_id].upto - above
    is_whole = all(span.upto == rows[run_id].events for run_id, span in spans.items())
    wanted = {run_id: span for run_id, span in spans.items() if span.upto > span.above}
    told = queries.events(tx, rows, wanted) if wanted else []
    return _Seen(rows, spans, told, joined, seconds, gone, now, is_whole)


def _open(tx: Transaction, workflow_id: str) -> tuple[FollowedWorkflow, list[Run]]:
    horizon = queries.now(tx) - _LAG
    newest = queries.newest(tx, workflow_id)
    newest_id = 0 if newest is None else newest.id
    followed = FollowedWorkflow(workflow_id, horizon, newest_id, left_until=horizon)
    return followed, queries.alive(tx, workflow_id, horizon)


def _end_of(run: Run, times: Mapping[int, datetime]) -> datetime:
    """The later one of the two times of an end, unless that is of another end, after a retry."""
    assert run.finished_at is not None
    written = times.get(run.id, run.finished_at)
    return written if timedelta(0) < written - run.finished_at < _ENDING else run.finished_at


def _ended_and_alive(
    tx: Transaction, workflow_id: str, after: datetime, until: datetime, limit: int
) -> tuple[list[Run], dict[int, datetime], list[int]]:
    """In this order: a run that is retried between the two is in both, and never in none."""
    ended = queries.ended_between(tx, workflow_id, after, until, limit)
    times = queries.end_times(tx, [run.id for run in ended])
    return ended, times, [run.id for run in queries.alive(tx, workflow_id, until)]
