"""Callbacks and plug-ins: each call becomes a task, in the transaction that notes the event of the run.

Runs of such tasks are runs of no workflow, so nobody is told of them in turn.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import msgspec

from engine.errors import StoreUnavailable
from engine.model import callbacks, plugins
from engine.model.graph import Graph, TaskSpec, plan
from engine.model.happenings import Happening, Scope
from engine.model.plugins import Binding, PluginEvent
from engine.operations.submits import Submission, submit_all_within
from engine.store import functions, workflows
from engine.store import plugins as bindings
from engine.store import relays as store
from engine.store.database import Database, Transaction
from engine.store.relays import Relay
from engine.telemetry import emit

ACTOR = "callback"
PLUGIN_ACTOR = "plugin"
_RUNS = 20  # looked for at once
_EVENTS = 500  # of one run, in one transaction
_BYTES = 8 * 1024 * 1024  # of parameters, likewise, unless it is a single event
_PORTION = 10  # events read at once: each may have a result of `callbacks.MAX_RESULT`
_SECONDS = 1.0  # of one tick, so that schedules do not wait long for what follows it
_AGAIN_SECONDS, _LONGEST_SECONDS = 1.0, 300.0


@dataclass(slots=True)
class Telling:
    """What the ticks of one process have in common: the run to go on behind, where there was no time for all;
    and runs whose events could not be told, which are left alone, longer each time."""

    after: int = 0
    _left: dict[int, tuple[int, float]] = field(default_factory=dict)  # run → failures, until

    def is_left(self, run_id: int) -> bool:
        return time.monotonic() < self._left.get(run_id, (0, 0.0))[1]

    def failed(self, run_id: int) -> None:
        failures = self._left.get(run_id, (0, 0.0))[0] + 1
        seconds = min(_AGAIN_SECONDS * 2.0 ** min(failures, 32), _LONGEST_SECONDS)
        self._left[run_id] = failures, time.monotonic() + seconds

    def went_well(self, run_id: int) -> None:
        self._left.pop(run_id, None)


@dataclass(frozen=True, slots=True)
class Tick:
    calls: int = 0  # made
    runs: int = 0  # whose events were looked at
    has_more: bool = False  # there was no time for all


async def tick(database: Database, telling: Telling | None = None) -> Tick:
    """Deal with events that have come. What one process is at, the others pass over."""
    telling = telling or Telling()
    began_behind, calls, runs, until = telling.after, 0, 0, time.monotonic() + _SECONDS
    while True:
        found = await database.read(store.to_do, _RUNS, telling.after)
        for run_id in found:
            if telling.is_left(run_id):
                continue
            if runs and time.monotonic() > until:
                return Tick(calls, runs, has_more=True)
            runs += 1
            telling.after = run_id
            calls += await _tell(database, run_id, until, telling)
        if len(found) < _RUNS:
            telling.after = 0  # once more from the start: what was there was not looked at
            return Tick(calls, runs, has_more=began_behind > 0 or (runs > 0 and time.monotonic() > until))
        telling.after = found[-1]


async def _tell(database: Database, run_id: int, until: float, telling: Telling) -> int:
    """Deal with the events of one run, page by page. Returns calls made."""
    made = 0
    try:
        while True:
            page = await database.run(_relay, run_id, actor=ACTOR)
            made += page.calls
            if not page.has_more or time.monotonic() > until:
                telling.went_well(run_id)
                return made
    except StoreUnavailable:
        raise
    except Exception as error:  # of one run: the others go on
        telling.failed(run_id)
        _emit(run_id, error)
        return made


async def tell_rest(database: Database, run_id: int) -> None:
    """Deal with all events of a run that is about to be removed. What cannot be told does not keep it."""
    if not await database.read(store.is_untold, run_id):
        return
    try:
        while (await database.run(partial(_relay, run_id=run_id, waits=True), actor=ACTOR)).has_more:
            pass
    except StoreUnavailable:
        raise
    except Exception as error:
        _emit(run_id, error)


def _emit(run_id: int, error: Exception) -> None:
    emit("callback.failed", level="error", run=run_id, error=repr(error))


@dataclass(frozen=True, slots=True)
class _Page:
    calls: int = 0
    has_more: bool = False


def _relay(tx: Transaction, run_id: int, *, waits: bool = False) -> _Page:
    found = store.take(tx, run_id, waits=waits)
    scope = None if found is None else store.scope(tx, run_id)
    if found is None or scope is None:
        return _Page()
    bound = bindings.concerning(tx, scope.workflow_id, scope.created_at)
    kinds = callbacks.kinds(found.callbacks) | plugins.kinds(bound)
    calls = _Calls(tx, found, scope, bound)
    number, has_more = scope.events, False
    for place, happening in enumerate(_happenings(tx, found, scope, kinds)):
        if place == _EVENTS or calls.size > _BYTES:
            has_more = True
            break
        calls.make(happening)
        number = happening.number
    if not has_more:
        number = scope.events
    submit_all_within(tx, calls.submissions())
    store.move_on(tx, run_id, number, is_over=plugins.is_over(scope, number))
    return _Page(calls.count, has_more)


def _happenings(tx: Transaction, found: Relay, scope: Scope, kinds: Collection[str]) -> Iterator[Happening]:
    """Those that were not dealt with, read as they are asked for: their results may be large."""
    after = found.number
    while True:
        portion = store.happenings(
            tx,
            scope.run_id,
            after=after,
            until=scope.events,
            kinds=kinds,
            limit=_PORTION,
            most=callbacks.MAX_RESULT,
        )
        yield from portion
        if len(portion) < _PORTION:
            return
        after = portion[-1].number


class _Calls:
    """What events of one run come to: a run for the callbacks of each, and one for all plug-ins."""

    def __init__(self, tx: Transaction, found: Relay, scope: Scope, bound: list[Binding]) -> None:
        self._tx = tx
        self._found = found
        self._scope = scope
        self._bound = bound
        self._graphs: list[Graph] = []
        self._plugins: list[TaskSpec] = []
        self._options = functions.options(tx, callbacks.functions(found.callbacks)) if found.callbacks else {}
        self.count = 0
        self.size = 0  # bytes of parameters

    def make(self, happening: Happening) -> None:
        called = self._told(happening)
        self._plugins += called
        settled = callbacks.settled(happening)
        found = self._found
        graph = settled and callbacks.calls(
            found.run_id, found.workflow_id, found.callbacks, settled, self._options
        )
        if graph:
            self._graphs.append(graph)
            called = [*called, *graph.tasks]
        self.count += len(called)
        self.size += sum(len(msgspec.json.encode(spec.params)) for spec in called)

    def _told(self, happening: Happening) -> list[TaskSpec]:
        if plugins.event_of(happening) is PluginEvent.WORKFLOW_FAILED and self._scope.error is None:
            run = workflows.get_run(self._tx, self._scope.run_id)
            self._scope = replace(self._scope, error=None if run is None else run.error)
        return plugins.calls(self._scope, self._bound, happening)

    def submissions(self) -> list[Submission]:
        made = [Submission(plan(graph), ACTOR) for graph in self._graphs]
        if self._plugins:
            made.append(Submission(plan(plugins.graph(self._scope, self._plugins)), PLUGIN_ACTOR))
        return made
