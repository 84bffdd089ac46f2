"""The process beside a worker, in what the tests with killed workers meet too seldom."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from engine.store.beat import BeatTarget
from engine.store.database import Database
from engine.worker import guardian
from tests.factories import rows, session


@pytest.fixture
def target(database: Database) -> BeatTarget:
    return database.beat_target(session(database))


def ending(database: Database) -> str | None:
    [row] = rows(database, "SELECT end_reason FROM worker_session")
    reason: str | None = row.end_reason
    return reason


def test_a_failure_while_it_cleans_up_is_not_its_end(
    database: Database, target: BeatTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = [psutil.NoSuchProcess(1), OSError("no database")]

    def kill(variable: str, value: str) -> int:
        if failures:
            raise failures.pop()
        return 0

    monkeypatch.setattr(guardian, "kill_marked", kill)
    monkeypatch.setattr(guardian, "_LOOK_SECONDS", 0.0)
    guardian._clean_up(target, lease_seconds=20.0)
    assert not failures and ending(database) == "worker died"


def test_the_session_goes_on_if_its_processes_may_live(
    database: Database, target: BeatTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(variable: str, value: str) -> int:
        raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(guardian, "kill_marked", kill)
    guardian._clean_up(target, lease_seconds=0.1)
    assert ending(database) is None


def test_a_file_that_cannot_be_read_is_an_unknown_answer(tmp_path: Path) -> None:
    path = tmp_path / "file.db"
    path.write_bytes(b"no database " * 1000)
    beat = BeatTarget(1, sqlite=str(path)).open()
    assert beat is not None
    for _ in range(2):
        with pytest.raises(OSError, match="not a database"):
            beat.send()
