"""A database: where transactions begin, commit and are rerun. The only code that commits."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import sqlalchemy as sa

from engine.errors import ConfigError, StoreUnavailable
from engine.model.run_defaults import RunDefaults
from engine.store.beat import BeatTarget
from engine.store.clock import Clock
from engine.store.dialects import dialect_of, parse_url
from engine.store.dialects.base import Dialect, Durability, Subscription
from engine.store.dialects.sqlite import FileClaim, in_memory, tell_time
from engine.store.prepared import Pipeline, Prepared, Rows
from engine.store.together import Together

A = TypeVar("A")
T = TypeVar("T")

_RERUNS = 20
_RERUNS_SECONDS = 10.0  # each rerun may wait for a lock; a caller has to get an answer
_RERUN_SECONDS = 0.005  # grows with each rerun, with jitter
CONTROL = "!"  # a hint that running work is to stop; queues cannot be named like this
ENDED = "."  # a hint that a run has ended
SIGNALLED = "?"  # a hint that a run was sent a signal
SHARDS = 256  # of the counters; more would make the totals dearer to read
_HINT_SECONDS = 0.002  # wake-ups of other processes are gathered this long
_DEFAULTS = RunDefaults()


@dataclass(slots=True)
class Transaction:
    """An open connection in a transaction, and what should happen once it has committed."""

    connection: sa.Connection
    dialect: Dialect
    pipeline: Pipeline
    actor: str = "local"
    shard: int = 0  # of this process in `counter`
    run_defaults: RunDefaults = _DEFAULTS  # of this process, for runs of workflows that start in it
    wakes: set[str] = field(default_factory=set)  # queues that have work now; CONTROL, ENDED
    ended: list[Rows] = field(default_factory=list)  # runs that are over, to be looked at after the commit
    gives_way: bool = False

    def give_way(self) -> None:
        """Rather end with `Busy` than wait long for a lock: the caller has another way."""
        self.gives_way = True

    @overload
    def execute(self, statement: Prepared, parameters: Mapping[str, Any] = ...) -> Rows: ...
    @overload
    def execute(self, statement: sa.Executable, parameters: Any = ...) -> sa.CursorResult[Any]: ...
    def execute(self, statement: Any, parameters: Any = None) -> Any:
        """A prepared statement's answer is waited for when it is looked at, at the latest by the commit."""
        if isinstance(statement, Prepared):
            return self.pipeline.execute(statement, parameters or {})
        return self.plain.execute(statement, parameters)

    @property
    def plain(self) -> sa.Connection:
        """The connection itself, once everything that was sent has been answered."""
        self.pipeline.leave()
        return self.connection


@dataclass(frozen=True, slots=True)
class Later(Generic[T]):
    """What a store function answers once it has been committed: nothing was waited for before."""

    read: Callable[[], T]


class Busy(Exception):
    """Somebody held a lock that a transaction which gives way needed. Nothing was committed."""


class LostRace(Exception):
    """Raised by store functions when another transaction was faster: the whole of the work runs again."""


class Database:
    """Runs store functions in transactions, in threads of its own.

    Postgres: a pool of `pool_size` connections. SQLite: one writing thread with a connection of its own
    and a few readers; in memory everything shares one connection. `exclusive` promises that no other
    process uses the SQLite file, which allows WAL whatever the library's version.

    `run_defaults` hold for tasks of the workflows whose runs start through it.

    `clock` is a time of a test's own, for a database in memory; otherwise the database has the time. Raises
    `ConfigError`.
    """

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 4,
        exclusive: bool = False,
        wake_others: bool = True,
        clock: Clock | None = None,
        run_defaults: RunDefaults = _DEFAULTS,
    ) -> None:
        self.url = parse_url(url)
        self.run_defaults = run_defaults
        self.dialect = dialect_of(self.url.get_backend_name())
        self._serial = not self.dialect.locks_rows
        self._one_connection = self._serial and in_memory(self.url)
        if clock is not None and not self._one_connection:
            raise ConfigError("only a database in memory can have a clock of its own")
        self._claim: FileClaim | None = None
        if self._serial and not self._one_connection:
            self._claim = FileClaim(self.url, exclusive=exclusive)
        self._turn = (self._claim and self._claim.turn) or nullcontext()
        self.is_private = self._one_connection or (self._serial and exclusive)
        self.needs_recovery = self.is_private  # sessions of earlier processes are certainly dead
        self.engine = self.dialect.create_engine(self.url, pool_size=pool_size + 1, exclusive=exclusive)
        self.clock = clock or Clock()
        if clock is not None:
            tell_time(self.engine, clock.now)
        self._readers = self.engine.execution_options(read_only=True)
        self.writers = 1 if self._serial else pool_size  # transactions that may write at once
        self._write_pool = ThreadPoolExecutor(self.writers, "engine-store")
        self._read_pool = self._write_pool
        if self._serial and not self._one_connection:
            self._read_pool = ThreadPoolExecutor(pool_size, "engine-read")
        self._together: dict[Callable[..., Any], Together] = {}
        self._thread = threading.local()
        self._wake_others = wake_others and not self.is_private
        self._notifier = _Notifier(self.dialect, self.url) if self._notifies else None
        self._on_wake: list[Callable[[str], None]] = []
        self._subscription: Subscription | None = None

    @property
    def _notifies(self) -> bool:
        return self._wake_others and self.dialect.listens

    # --- transactions

    @overload
    async def run(self, work: Callable[..., Later[T]], *args: Any, actor: str = ...) -> T: ...
    @overload
    async def run(self, work: Callable[..., T], *args: Any, actor: str = ...) -> T: ...
    async def run(self, work: Callable[..., Any], *args: Any, actor: str = "local") -> Any:
        """Run `work(transaction, *args)`, commit, and wake whoever it left work for.

        Lost races rerun the whole of `work`. `StoreUnavailable` means the database did not answer; if
        it happened at the commit, nobody knows whether it took place.
        """
        # A commit is never interrupted half-way: the thread goes on when nobody waits any more.
        return await _answer(self._write_pool.submit(self._run, work, args, actor))

    async def together(
        self, work: Callable[[Transaction, Sequence[A]], Sequence[T | BaseException]], item: A
    ) -> T:
        """As `run`, for many small calls: those of the same `work` that meet share a transaction.

        `work(transaction, items)` gives one answer for each item; an exception among them is raised for
        that item alone, and the others are committed.
        """
        group = self._together.get(work)
        if group is None:
            group = self._together.setdefault(work, Together(work, self._run_items, self._write_pool))
        return await _answer(group.call(item))

    def _run_items(self, work: Callable[..., Sequence[Any]], items: Sequence[Any]) -> Sequence[Any]:
        answers: Sequence[Any] = self._run(work, (items,), "local")
        return answers

    async def read(self, work: Callable[..., T], *args: Any) -> T:
        """Run `work(transaction, *args)` in a transaction that only reads."""
        call = self._read_pool.submit(self._read, work, args)
        try:
            return await _answer(call)
        except asyncio.CancelledError:
            call.cancel()  # if it has not begun
            raise

    @overload
    def run_sync(self, work: Callable[..., Later[T]], *args: Any, actor: str = ...) -> T: ...
    @overload
    def run_sync(self, work: Callable[..., T], *args: Any, actor: str = ...) -> T: ...
    def run_sync(self, work: Callable[..., Any], *args: Any, actor: str = "local") -> Any:
        """As `run`, for callers without an event loop."""
        return self._write_pool.submit(self._run, work, args, actor).result()

    def read_sync(self, work: Callable[..., T], *args: Any) -> T:
        return self._read_pool.submit(self._read, work, args).result()

    def _run(self, work: Callable[..., Any], args: tuple[Any, ...], actor: str) -> Any:
        reruns, give_up = 0, time.monotonic() + _RERUNS_SECONDS
        while True:
            committing = False
            tx: Transaction | None = None
            try:
                with (
                    self._turn,
                    self.engine.connect() as connection,
                    self.dialect.pipeline(connection) as pipeline,
                    connection.begin() as transaction,
                    pipeline.ended_by_errors(),
                ):
                    pipeline.begin()
                    tx = Transaction(
                        connection, self.dialect, pipeline, actor, self._shard(), self.run_defaults
                    )
                    result = work(tx, *args)
                    told = self._notifier.at_once(tx.wakes) if self._notifier is not None else set()
                    committing = True
                    pipeline.commit(transaction, told)
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError, LostRace) as error:
                if tx is not None and tx.gives_way and self.dialect.is_locked(error):
                    raise Busy from error
                reruns += 1
                is_over = reruns > _RERUNS or time.monotonic() > give_up
                if is_over or not self._may_rerun(error, committing, reruns):
                    raise self._translated(error) from error
            else:
                if isinstance(result, Later):
                    result = result.read()
                if any(rows.all() for rows in tx.ended):
                    tx.wakes.add(ENDED)
                self.wake(tx.wakes, told)
                return result
            time.sleep(_RERUN_SECONDS * reruns * random.uniform(0.5, 1.5))

    def _shard(self) -> int:
        """A shard of `counter` for each thread: transactions of one process do not wait for each other."""
        if not hasattr(self._thread, "shard"):
            self._thread.shard = random.randrange(SHARDS)
        shard: int = self._thread.shard
        return shard

    def _may_rerun(self, error: BaseException, committing: bool, reruns: int) -> bool:
        if isinstance(error, LostRace) or self.dialect.is_rerunnable(error):
            return True
        # Before the commit was sent the transaction is surely gone, and a stale pooled connection is the
        # usual reason. At the commit nobody knows: the caller has to look.
        return not committing and reruns == 1 and self.dialect.is_disconnect(error)

    def _read(self, work: Callable[..., T], args: tuple[Any, ...]) -> T:
        reruns, give_up = 0, time.monotonic() + _RERUNS_SECONDS
        while True:
            try:
                with (
                    self._readers.connect() as connection,
                    self.dialect.pipeline(connection) as pipeline,
                    connection.begin(),
                    pipeline.ended_by_errors(),
                ):
                    pipeline.begin(is_reading=True)
                    return work(Transaction(connection, self.dialect, pipeline), *args)
            except (sa.exc.DBAPIError, sa.exc.TimeoutError, OSError) as error:
                reruns += 1
                is_over = reruns > _RERUNS or time.monotonic() > give_up
                if is_over or not self._may_rerun(error, False, reruns):
                    raise self._translated(error) from error
            time.sleep(_RERUN_SECONDS * reruns)

    def _translated(self, error: BaseException) -> BaseException:
        ours = isinstance(error, OSError | sa.exc.TimeoutError | LostRace)
        if ours or self.dialect.is_unavailable(error):
            reason = _first_line(error) or "too many changes at the same place"
            return StoreUnavailable(f"the database is not available: {reason}")
        return error

    # --- wake-ups

    def wake(self, queues: set[str], told: Collection[str] = ()) -> None:
        """Hint that `queues` have work: at once to this process, gathered to the others except for `told`."""
        for queue in queues:
            for callback in self._on_wake:
                callback(queue)
        if self._notifier is not None and (untold := queues - {ENDED, *told}):
            self._notifier.add(untold)

    def on_wake(self, callback: Callable[[str], None]) -> None:
        """Call `callback(queue)` from any thread after each commit, of any process, that left work.

        The queue is "" if it is not known; it may also be `CONTROL`, or `ENDED` (of this process only).
        Hints may be lost or repeated; poll as well.
        """
        self._on_wake.append(callback)
        if self._subscription is None and self._wake_others:
            self._subscription = self.dialect.subscribe(self.url, self._hint)

    def off_wake(self, callback: Callable[[str], None]) -> None:
        with suppress(ValueError):
            self._on_wake.remove(callback)

    def _hint(self, queue: str) -> None:
        for callback in self._on_wake:
            callback(queue)

    # --- questions and the end

    def durability(self) -> Durability:
        return self.read_sync(lambda tx: self.dialect.durability(tx.plain))

    def facts(self) -> dict[str, Any]:
        return self.read_sync(lambda tx: self.dialect.facts(tx.plain))

    def beat_target(self, session_id: int) -> BeatTarget:
        """Where the guardian of a worker shows that the worker is alive."""
        if self.is_private:
            return BeatTarget(session_id)
        if self._serial:
            return BeatTarget(session_id, sqlite=self.url.database)
        return BeatTarget(session_id, postgres=self.dialect.connect_arguments(self.url))

    @property
    def files(self) -> list[str]:
        """The database's own files, which no task may touch."""
        if not self._serial or self._one_connection:
            return []
        ends = ("", "-wal", "-shm", "-journal", ".lock", ".turn")
        return [f"{self.url.database}{end}" for end in ends]

    def close(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
        if self._notifier is not None:
            self._notifier.close()
        self._read_pool.shutdown()
        self._write_pool.shutdown()
        self.engine.dispose()
        if self._claim is not None:
            self._claim.close()


async def _answer(call: Future[T]) -> T:
    """What a thread answers. `asyncio.wrap_future` takes two more rounds of the event loop to bring it.

    Whoever waits may be cancelled; the call goes on.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def arrived(call: Future[T]) -> None:
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(_settle, answer, call)

    call.add_done_callback(arrived)
    return await answer


def _settle(answer: asyncio.Future[T], call: Future[T]) -> None:
    if answer.cancelled():
        return
    if (error := call.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(call.result())


class _Notifier:
    """Gathers wake-ups for other processes and sends them outside of any transaction.

    Commits that notify take a lock on the whole database; one small connection of its own does not. After a
    pause the first wake-ups need not wait for it: they go behind the COMMIT of what they are about.
    """

    def __init__(self, dialect: Dialect, url: sa.URL) -> None:
        self._dialect = dialect
        self._url = url
        self._pending: set[str] = set()
        self._wanted = threading.Event()
        self._stopped = False
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._told_at = 0.0

    def at_once(self, queues: set[str]) -> set[str]:
        """Those of `queues` that the caller is to tell of, right behind its COMMIT."""
        with self._lock:
            now = time.monotonic()
            is_quiet = not self._pending and now - self._told_at > _HINT_SECONDS
            if is_quiet and queues:
                self._told_at = now
            return queues - {ENDED} if is_quiet else set()

    def add(self, queues: set[str]) -> None:
        with self._lock:
            self._pending |= queues
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine-notify", daemon=True)
                self._thread.start()
        self._wanted.set()

    def _run(self) -> None:
        connection = None
        while not self._stopped:
            self._wanted.wait()
            self._wanted.clear()
            with self._lock:
                queues, self._pending = self._pending, set()
                self._told_at = time.monotonic()
            try:
                connection = connection or self._dialect.open_notifier(self._url)
                for queue in queues:
                    self._dialect.notify(connection, queue)
            except Exception:  # a lost hint costs at most one poll interval
                if connection is not None:
                    connection.close()
                connection = None
            time.sleep(_HINT_SECONDS)
        if connection is not None:
            connection.close()

    def close(self) -> None:
        self._stopped = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=3.0)


def _first_line(error: BaseException) -> str:
    original = getattr(error, "orig", None) or error
    return str(original).strip().split("\n", 1)[0][:200]
