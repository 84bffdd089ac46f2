"""The turn to write to a shared SQLite file."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.errors import StoreUnavailable
from engine.store.database import Database
from engine.store.turn import Turn

_HOLD = """
import sys
from engine.store.turn import Turn
with Turn(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file")


def hold(path: str) -> subprocess.Popen[bytes]:
    """Another process that has the turn until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def give_back(holder: subprocess.Popen[bytes]) -> None:
    holder.communicate()


def test_only_one_has_the_turn(path: str) -> None:
    inside, most = 0, 0
    turns = [Turn(path), Turn(path)]

    def work(turn: Turn) -> None:
        nonlocal inside, most
        for _ in range(200):
            with turn:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work, args=(turns[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for turn in turns:
        turn.close()
    assert most == 1


def test_who_waits_too_long_is_told_and_gets_it_later(path: str) -> None:
    holder = hold(path)
    turn = Turn(path, wait_seconds=0.1)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="stopped by a signal"), turn:
            pass
    give_back(holder)
    patient = Turn(path)
    for one in (patient, turn, patient):  # what was given up on does not keep the turn
        with one:
            pass
    patient.close()
    turn.close()


def test_holder_that_dies_gives_way(path: str) -> None:
    holder = hold(path)
    holder.kill()
    holder.communicate()
    turn = Turn(path)
    with turn:
        pass
    turn.close()


def test_writer_that_is_kept_waiting_gets_an_answer(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'file'}")
    assert database._claim is not None and database._claim.turn is not None
    database._claim.turn._wait_seconds = 0.2
    holder = hold(str(tmp_path / "file"))
    with pytest.raises(StoreUnavailable, match="stopped by a signal"):
        database.run_sync(lambda tx: None)
    give_back(holder)
    assert database.run_sync(lambda tx: 1) == 1
    database.close()
