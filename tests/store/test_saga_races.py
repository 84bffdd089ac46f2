"""People who decide about the same failed compensations at once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.errors import Conflict
from engine.model.graph import Compensation
from engine.model.outcomes import Failed, Succeeded
from engine.model.sagas import SagaState
from engine.operations import runs, sagas
from engine.operations.sagas import SagaReport
from engine.store.database import Database
from tests.factories import KIND, claim, do, finish, graph, session, states, submit
from tests.store.meeting import Meeting


def failed(database: Database) -> tuple[int, int]:
    """A saga whose compensations `a` and `b` have failed, and the run of those."""
    undone = {name: {"compensation": Compensation(KIND)} for name in "ab"}
    run_id = submit(database, graph("a -> b -> c", **undone)).run_id
    worker = session(database)
    for outcome in (Succeeded(), Succeeded(), Failed("no"), Failed("no"), Failed("no")):
        [lease] = claim(database, worker)
        finish(database, (lease, outcome))
    compensations = do(sagas.get(database, run_id)).compensation_run_id
    assert compensations is not None
    return run_id, compensations


def skipping(run_id: int, name: str) -> Callable[[Database], SagaReport]:
    return lambda database: do(sagas.skip(database, run_id, [name], reason=f"no {name}"))


def test_skips_at_the_same_time_are_both_kept(meeting: Meeting) -> None:
    database = meeting.database()
    run_id, _ = failed(database)
    with meeting.stopped(skipping(run_id, "a")) as first:
        second = meeting.start(skipping(run_id, "b"))
        meeting.wait_until_blocked()
    assert first.result().run_id == second.result().run_id
    report = do(sagas.get(database, run_id))
    assert {skip.reason for skip in report.skips.values()} == {"no a", "no b"}
    assert report.state is SagaState.SIGNED_OFF


def test_a_skip_that_meets_a_retry_is_too_late(meeting: Meeting) -> None:
    database = meeting.database()
    run_id, compensations = failed(database)
    with meeting.stopped(lambda database: do(runs.retry(database, compensations))):
        late = meeting.start(skipping(run_id, "a"))
        meeting.wait_until_blocked()
    with pytest.raises(Conflict, match="is compensating"):
        late.result()
    assert do(sagas.get(database, run_id)).skips == {}


def test_a_retry_that_meets_a_skip_leaves_out_what_is_skipped(meeting: Meeting) -> None:
    database = meeting.database()
    run_id, compensations = failed(database)
    with meeting.stopped(skipping(run_id, "b")):
        retrying = meeting.start(lambda database: do(runs.retry(database, compensations)))
        meeting.wait_until_blocked()
    retrying.result()
    assert states(database, compensations) == {"b": "failed", "a": "available"}
