"""A saga of six steps whose last one fails, with its compensations; and what has to be true of every saga."""

from __future__ import annotations

from engine.model.graph import Compensation, Graph
from engine.model.outcomes import Failed, Outcome, Succeeded
from engine.model.records import Lease
from engine.model.retry import RetryPolicy
from engine.operations import sagas
from engine.store.database import Database
from tests.factories import KIND, claim, do, finish, graph, make_due, rows, session, submit

STEPS = ("book", "hold", "pay", "pack", "ship", "tell")
FAILS = "tell"
UNDO = Compensation(KIND, {"why": "undo"}, retry=RetryPolicy(max_attempts=3))


def saga() -> Graph:
    """`hold` and `pay` run side by side."""
    undone = {name: {"compensation": UNDO} for name in STEPS}
    return graph("book -> hold -> pack; book -> pay -> pack; pack -> ship -> tell", **undone)


def outcome(lease: Lease) -> Outcome:
    """Compensations succeed at their second try, the last step of the saga fails."""
    if isinstance(lease.client, dict):  # a compensation
        return Succeeded() if lease.failures else Failed("not yet")
    return Failed("no") if lease.name == FAILS else Succeeded({"of": lease.name})


class SagaScenario:
    def __init__(self, database: Database) -> None:
        self._database = database

    def play(self) -> None:
        submit(self._database, saga())
        work(self._database)


def work(database: Database) -> None:
    """Until nothing is left to run."""
    worker = session(database)
    while True:
        make_due(database)
        leases = claim(database, worker, 1)
        if not leases:
            return
        finish(database, *((lease, outcome(lease)) for lease in leases))


def check(database: Database, when: str) -> None:
    """Of every saga that has failed, exactly what had happened is undone, in reverse order of its end."""
    failed = rows(
        database,
        "SELECT saga.run_id AS id FROM saga JOIN run ON run.id = saga.run_id WHERE run.state = 'failed'",
    )
    for row in failed:
        ended = rows(
            database,
            "SELECT task.name FROM event JOIN task ON task.id = event.task_id "
            "WHERE event.run_id = :run AND event.kind = 'succeeded' ORDER BY event.number DESC",
            run=row.id,
        )
        report = do(sagas.get(database, row.id))
        undone = [task.name for task in report.compensations]
        assert undone == [task.name for task in ended], (when, row.id)
    twice = rows(
        database,
        "SELECT 1 FROM run, saga WHERE run.name LIKE 'compensation of %' "
        "GROUP BY run.id HAVING max(CASE WHEN saga.compensation_run_id = run.id THEN 1 ELSE 0 END) = 0",
    )
    assert not twice, (when, "a run that undoes and that no saga knows")
