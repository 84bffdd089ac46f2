"""What a running attempt may ask of its worker and of the database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field

from engine.errors import PermanentError
from engine.executors.base import Executor, Interruption, TaskContext
from engine.executors.registry import ExecutorRegistry
from engine.expressions.evaluator import Evaluator
from engine.model.graph import TaskSpec
from engine.model.json import JSON
from engine.model.records import Lease
from engine.operations import functions, tasks
from engine.store.database import Database
from engine.worker.durable import DatabaseSteps, Insist
from engine.worker.logbook import AttemptLog, Logbook
from engine.worker.streaming import DatabaseStream, Publisher
from engine.worker.sub_tasks import SubTasks, refuse_references


@dataclass(slots=True)
class Surroundings:
    """What all attempts of a worker have in common."""

    database: Database
    registry: ExecutorRegistry
    evaluator: Evaluator = field(default_factory=Evaluator)
    book: Logbook = field(default_factory=Logbook)
    draining: Interruption = field(default_factory=Interruption)  # the worker takes no more work
    actor: str = ""


class AttemptContext(TaskContext):
    """Made for every attempt, so it holds little: what is asked for is made then."""

    __slots__ = ("_added", "_around", "_insist", "_left", "_log", "_upstream", "_waits", "limit", "sub_tasks")

    def __init__(
        self,
        lease: Lease,
        deadline: float | None,
        cancelled: Interruption,
        around: Surroundings,
        log: AttemptLog,
        insist: Insist,
    ) -> None:
        super().__init__(lease, deadline, cancelled, around.draining)
        self._around = around
        self._log = log
        self._insist = insist
        self._upstream: dict[str, JSON] | None = None
        self.limit: asyncio.Timeout | None = None  # what ends the attempt at `deadline`
        self._left: float | None = None  # of its time, while it waits
        self._waits = 0
        self._added: set[str] | None = None  # names of the tasks that this attempt has added
        # Hardly any attempt has some; nothing is made and asked for those that cannot.
        self.sub_tasks = SubTasks(around.database, lease, insist) if lease.attempt > 1 else None

    def log(self, stream: str, text: str) -> None:
        self._log.write(stream, text)

    async def spawn(self, tasks: Sequence[TaskSpec]) -> list[int]:
        return await self._spawn(tasks, awaited=False)

    async def add_sub_tasks(self, tasks: Sequence[TaskSpec]) -> list[int]:
        if self.sub_tasks is None:
            self.sub_tasks = SubTasks(self._around.database, self.lease, self._insist)
        ids = await self._spawn(tasks, awaited=True)
        self.sub_tasks.are_awaited = True
        return ids

    async def _spawn(self, specs: Sequence[TaskSpec], *, awaited: bool) -> list[int]:
        names, added = {spec.name for spec in specs}, self._added or set()
        if again := names & added:
            raise PermanentError(
                f'duplicate task id: "{min(again)}", which this attempt has added already: give each task a '
                "name of its own"
            )
        refuse_references(specs)
        self._added = added | names
        # Safe to repeat: names that an earlier attempt of this task added are returned as they are.
        database, actor = self._around.database, self._around.actor
        try:
            ids: list[int] = await self._insist(
                lambda: tasks.spawn(database, self.lease, specs, actor=actor, awaited=awaited)
            )
        except BaseException:
            self._added -= names
            raise
        return ids

    async def report(self, document: JSON) -> None:
        await self._insist(lambda: tasks.report(self._around.database, self.lease, document))

    async def upstream(self, names: Sequence[str] | None = None) -> dict[str, JSON]:
        if names is not None:
            return await self._read_upstream(names)
        if self._upstream is None:  # they stay as they are: a stream asks at every call
            self._upstream = await self._read_upstream(None)
        return copy(self._upstream)

    async def _read_upstream(self, names: Sequence[str] | None) -> dict[str, JSON]:
        found: dict[str, JSON] = await self._insist(
            lambda: tasks.upstream(self._around.database, self.lease, names)
        )
        return found

    def steps(self) -> DatabaseSteps:
        return DatabaseSteps(self._around.database, self.lease, self._insist, self._waiting)

    @contextmanager
    def _waiting(self) -> Generator[None]:
        """Meanwhile the attempt's time stands still: it has it for work, and may wait for days."""
        if not self._waits:
            self._left = self.seconds_left
            self._move_limit(None)
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1
            if not self._waits:
                self._move_limit(self._left)

    def _move_limit(self, seconds: float | None) -> None:
        if self.limit is None:
            return
        at = None if seconds is None else asyncio.get_running_loop().time() + seconds
        with suppress(RuntimeError):  # it has expired, or the attempt is over
            self.limit.reschedule(at)
            self.deadline = None if seconds is None else time.monotonic() + seconds

    async def publish(self, type: str, payload: JSON) -> list[str]:
        publisher = Publisher(self._around.database, self.lease, self._insist, self._around.actor)
        return await publisher(type, payload)

    async def are_functions_elsewhere(self, names: Collection[str]) -> bool:
        database, task_id = self._around.database, self.lease.task_id
        found: bool = await self._insist(lambda: functions.are_somewhere(database, names, task_id))
        return found

    async def given_back(self, code: str) -> int:
        database, task_id = self._around.database, self.lease.task_id
        count: int = await self._insist(lambda: functions.given_back(database, task_id, code))
        return count

    def stream(self) -> DatabaseStream:
        around = self._around
        return DatabaseStream(around.database, self.lease, self._insist, around.evaluator, around.actor)

    def executor_of(self, kind: str) -> Executor:
        return self._around.registry.get(kind)
