"""Callbacks, from the events of a run: each call becomes a task in the transaction that notes its event."""

from __future__ import annotations

from engine.errors import StoreUnavailable
from engine.model import callbacks
from engine.model.graph import plan
from engine.operations.submits import Submission, submit_all_within
from engine.store import relays as store
from engine.store.database import Database, Transaction
from engine.telemetry import emit

ACTOR = "callback"
_RUNS = 20  # looked at in one tick
_EVENTS = 500  # of one run, in one transaction


async def tick(database: Database) -> int:
    """Deal with events that have come. What one process is at, the others pass over. Returns calls made."""
    made = 0
    for run_id in await database.read(store.to_do, _RUNS):
        try:
            made += await database.run(_relay, run_id, actor=ACTOR)
        except StoreUnavailable:
            raise
        except Exception as error:  # of one run: the others go on
            emit("callback.failed", level="error", run=run_id, error=repr(error))
    return made


def _relay(tx: Transaction, run_id: int) -> int:
    found = store.take(tx, run_id)
    if found is None:
        return 0
    number, settled = store.settled(tx, run_id, found.number, _EVENTS)
    graphs = [callbacks.calls(run_id, found.workflow_id, found.callbacks, task) for task in settled]
    submissions = [Submission(plan(graph), ACTOR) for graph in graphs if graph is not None]
    submit_all_within(tx, submissions)
    store.move_on(tx, run_id, number)
    return sum(len(submission.plan.graph.tasks) for submission in submissions)
