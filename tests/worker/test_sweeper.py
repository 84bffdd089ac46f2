"""Who is judged dead: by beats that do not move on the observer's own clock, and by nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from engine.model.records import WorkerSession
from engine.operations import workers
from engine.store.database import Database
from engine.worker import sweeper
from engine.worker.sweeper import Observer, Sweeper
from tests import factories

SESSION = WorkerSession(1, "w", "host", 1, datetime(2020, 1, 1, tzinfo=UTC), 0, None, None)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(sweeper, "boot_time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def watch(observer: Observer, clock: Clock, seconds: float, beat_every: float | None) -> list[float]:
    """When the session is overdue, looking every two seconds at beats of that rhythm."""
    begun, found = clock.now, []
    while clock.now - begun < seconds:
        clock.now += 2.0
        beat = 0 if beat_every is None else int((clock.now - begun) / beat_every)
        if observer.overdue([replace(SESSION, beat=beat)]):
            found.append(clock.now - begun)
    return found


def test_session_that_beats_is_left_alone(clock: Clock) -> None:
    assert not watch(Observer(20.0, 2.0), clock, 300.0, beat_every=5.0)


def test_session_is_overdue_when_its_beat_has_not_moved_for_the_lease(clock: Clock) -> None:
    first, *_ = watch(Observer(20.0, 2.0), clock, 60.0, beat_every=None)
    assert 20.0 <= first <= 24.0


def test_time_in_which_the_observer_did_not_look_counts_against_nobody(clock: Clock) -> None:
    observer = Observer(20.0, 2.0)
    assert not watch(observer, clock, 6.0, beat_every=None)
    clock.now += 3600.0  # asleep, as all the others may have been
    first, *_ = watch(observer, clock, 60.0, beat_every=None)
    assert 10.0 <= first <= 18.0  # and what it had seen before still counts


def test_beat_that_moves_by_any_amount_counts(clock: Clock) -> None:
    observer = Observer(4.0, 2.0)
    for beat in (5, 5, 3, 3, 9, 9):  # a restored database may even count backwards
        clock.now += 2.0
        assert not observer.overdue([replace(SESSION, beat=beat)])


def test_session_that_beats_between_look_and_verdict_is_not_expired(database: Database) -> None:
    session_id = factories.session(database)
    factories.submit(database, "a")
    factories.claim(database, session_id)
    [seen] = factories.do(workers.live(database))
    factories.write(database, "UPDATE worker_session SET beat = beat + 1")
    assert factories.do(workers.expire(database, seen, 0)) is None
    [seen] = factories.do(workers.live(database))
    assert factories.do(workers.expire(database, seen, 0)) == 1


def test_one_session_that_cannot_be_cleared_does_not_keep_others_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = [factories.session(database), factories.session(database)]
    for session_id in sessions:
        factories.submit(database, "a")
        factories.claim(database, session_id)
        factories.write(database, f"UPDATE worker_session SET ended_at = started_at WHERE id = {session_id}")
    real = workers.clear
    order = [session.id for session in factories.do(workers.sessions_to_clear(database))]

    async def clear(database: Database, session: WorkerSession, observer: int) -> int:
        if session.id == order[0]:
            raise ValueError("a row that cannot be read")
        return await real(database, session, observer)

    monkeypatch.setattr(workers, "clear", clear)
    service = Sweeper(database, 0, lease_seconds=20, sweep_seconds=2, retention_seconds=100)
    factories.do(service.sweep())
    assert [session.id for session in factories.do(workers.sessions_to_clear(database))] == order[:1]
