"""Callbacks and plug-ins: each call becomes a task, in the transaction that notes the event of the run.

Runs of such tasks are runs of no workflow, so nobody is told of them in turn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from engine.errors import StoreUnavailable
from engine.model import callbacks, plugins
from engine.model.graph import Graph, plan
from engine.model.happenings import Happening, Scope
from engine.model.plugins import Binding, PluginEvent
from engine.operations.submits import Submission, submit_all_within
from engine.store import plugins as bindings
from engine.store import relays as store
from engine.store import workflows
from engine.store.database import Database, Transaction
from engine.store.relays import Relay
from engine.telemetry import emit

ACTOR = "callback"
PLUGIN_ACTOR = "plugin"
_RUNS = 20  # looked for at once
_EVENTS = 500  # of one run, in one transaction
_SECONDS = 1.0  # of one tick, so that schedules do not wait long for what follows it


async def tick(database: Database) -> int:
    """Deal with events that have come. What one process is at, the others pass over. Returns calls made."""
    made, after, until = 0, 0, time.monotonic() + _SECONDS
    while True:
        found = await database.read(store.to_do, _RUNS, after)
        for run_id in found:
            made += await _tell(database, run_id, until)
        if len(found) < _RUNS or time.monotonic() > until:
            return made
        after = found[-1]


async def _tell(database: Database, run_id: int, until: float) -> int:
    """Deal with the events of one run, page by page."""
    made = 0
    try:
        while True:
            page = await database.run(_relay, run_id, actor=ACTOR)
            made += page.calls
            if not page.has_more or time.monotonic() > until:
                return made
    except StoreUnavailable:
        raise
    except Exception as error:  # of one run: the others go on
        emit("callback.failed", level="error", run=run_id, error=repr(error))
        return made


@dataclass(frozen=True, slots=True)
class _Page:
    calls: int = 0
    has_more: bool = False


def _relay(tx: Transaction, run_id: int) -> _Page:
    found = store.take(tx, run_id)
    scope = None if found is None else store.scope(tx, run_id)
    if found is None or scope is None:
        return _Page()
    bound = bindings.concerning(tx, scope.workflow_id, scope.created_at)
    kinds = callbacks.kinds(found.callbacks) | plugins.kinds(bound)
    happened = store.happenings(
        tx, run_id, after=found.number, until=scope.events, kinds=kinds, limit=_EVENTS
    )
    submissions = [
        *(Submission(plan(graph), ACTOR) for graph in _callbacks(found, happened)),
        *(Submission(plan(graph), PLUGIN_ACTOR) for graph in _plugins(tx, scope, bound, happened)),
    ]
    submit_all_within(tx, submissions)
    has_more = len(happened) == _EVENTS
    number = happened[-1].number if has_more else scope.events
    store.move_on(tx, run_id, number, is_over=plugins.is_over(scope, number))
    return _Page(sum(len(submission.plan.graph.tasks) for submission in submissions), has_more)


def _callbacks(found: Relay, happened: list[Happening]) -> list[Graph]:
    settled = filter(None, map(callbacks.settled, happened))
    graphs = (callbacks.calls(found.run_id, found.workflow_id, found.callbacks, each) for each in settled)
    return [graph for graph in graphs if graph is not None]


def _plugins(tx: Transaction, scope: Scope, bound: list[Binding], happened: list[Happening]) -> list[Graph]:
    if any(plugins.event_of(each) is PluginEvent.WORKFLOW_FAILED for each in happened):
        run = workflows.get_run(tx, scope.run_id)
        scope = replace(scope, error=None if run is None else run.error)
    graph = plugins.calls(scope, bound, happened)
    return [] if graph is None else [graph]
