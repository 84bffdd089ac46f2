"""A small process beside each worker: beats for its session, and cleans up when the worker is gone.

It shares no interpreter lock, event loop, thread or connection with tasks, so nothing a task does can
starve the heartbeat. It stops beating when the worker is dead or stopped by a signal, and kills the
processes of its tasks once the lease may have passed to others; a stopped worker that keeps all others
from writing to their SQLite file, it kills as well.

Protocol: the worker writes one JSON line (`order_line`) to our input and keeps it open. We write one
line per event to our output: `beat <boot time when it was sent>`, `lost`. The line `bye` ends us quietly;
the end of our input without it means that the worker has died.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from enum import Enum, auto
from typing import Any

import psutil

from engine.executors.processes import kill_marked
from engine.store.beat import Beat, BeatTarget
from engine.store.turn import Turn
from engine.telemetry import configure_logging, emit
from engine.worker.secrecy import hide_secrets

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps
_TURN_SECONDS = 2.0  # a turn takes milliseconds, at most a few seconds
_LOOK_SECONDS = 0.5  # between looks at the worker; also the wait after a beat that failed


def boot_time() -> float:
    return time.clock_gettime(_BOOT)


def lease_margin(beat_seconds: float, lease_seconds: float) -> float:
    """So long before the lease can run out for others, it has run out for us."""
    return min(beat_seconds, lease_seconds / 4)


class _State(Enum):
    RUNNING = auto()
    STOPPED = auto()  # by a signal: it may go on later
    GONE = auto()


def main() -> None:
    # A Ctrl-C in the terminal reaches the whole group; only the worker decides when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging(stream=sys.stderr)  # what we say on our output is for the worker
    hide_secrets([])  # our memory will hold the database's password
    worker = _parent()
    line = sys.stdin.buffer.readline()
    if line:  # otherwise the worker died before it could say anything
        order = json.loads(line)
        target = BeatTarget(**order["target"])
        guard(target, order["beat_seconds"], order["lease_seconds"], worker)
    os._exit(0)  # a beat that hangs must not keep us


def _parent() -> psutil.Process | None:
    try:
        return psutil.Process(os.getppid())
    except psutil.Error:  # it died meanwhile
        return None


def guard(
    target: BeatTarget, beat_seconds: float, lease_seconds: float, worker: psutil.Process | None
) -> None:
    """Until the worker says bye or is gone. Beats have a thread: one that hangs must not hide its death."""
    pulse = _Pulse(target, beat_seconds, worker)
    margin = lease_margin(beat_seconds, lease_seconds)
    pause = min(_LOOK_SECONDS, beat_seconds)
    has_killed = False
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], pause)
        if readable and sys.stdin.buffer.readline().strip() == b"bye":
            return
        state = _look(worker)
        if readable or state is _State.GONE:
            _clean_up(target, lease_seconds)
            return
        # A worker that can acts first, and more gently.
        patience = lease_seconds - (margin if state is _State.STOPPED else margin / 2)
        is_over = pulse.is_lost or pulse.silence > patience
        if is_over and not has_killed:
            kill_marked("ENGINE_SESSION", str(target.session_id))
            if state is _State.STOPPED and not _give_way(target) and _look(worker) is _State.STOPPED:
                emit("worker.killed_to_give_way", level="warning", session=target.session_id)
                _kill(worker)
        has_killed = is_over


class _Pulse:
    """Beats in a thread of its own while the worker runs, until the session is lost."""

    def __init__(self, target: BeatTarget, beat_seconds: float, worker: psutil.Process | None) -> None:
        self._target = target
        self._beat_seconds = beat_seconds
        self._worker = worker
        self._sent = boot_time()  # when the last good beat was sent
        self.is_lost = False
        threading.Thread(target=self._run, name="beat", daemon=True).start()

    @property
    def silence(self) -> float:
        return boot_time() - self._sent

    def _run(self) -> None:
        beat: Beat | None = None
        while not self.is_lost:
            pause = min(_LOOK_SECONDS, self._beat_seconds)
            if _look(self._worker) is _State.RUNNING:
                sent = boot_time()
                with suppress(OSError):  # unknown: the worker watches the time of the last good beat
                    beat = beat or self._target.open()
                    self._note(sent, beat.send() if beat is not None else True)
                    pause = self._beat_seconds
            time.sleep(pause)

    def _note(self, sent: float, is_alive: bool) -> None:
        if is_alive:
            self._sent = sent
        else:
            self.is_lost = True
        _say(f"beat {sent}" if is_alive else "lost")


def _look(worker: psutil.Process | None) -> _State:
    try:
        if (
            worker is None or not worker.is_running()
        ):  # looks at the start time too: the number may have changed hands
            return _State.GONE
        match worker.status():
            case psutil.STATUS_ZOMBIE | psutil.STATUS_DEAD:
                return _State.GONE
            case psutil.STATUS_STOPPED:
                return _State.STOPPED
            case _:
                return _State.RUNNING
    except psutil.Error:
        return _State.GONE


def _give_way(target: BeatTarget) -> bool:
    """End the session of a stopped worker, whose lease is over. False if it keeps everyone from writing.

    A server ends the transaction of a client that says nothing more. SQLite has nobody who could: a
    process that is stopped inside a transaction holds its locks until it goes on, or dies.
    """
    if target.sqlite is None:
        return True
    turn = Turn(target.sqlite, _TURN_SECONDS)
    try:
        with turn:
            pass
        _end_session(target, "worker stopped by a signal")
        return True
    except OSError:
        return False
    finally:
        turn.close()


def _end_session(target: BeatTarget, reason: str) -> None:
    beat = target.open()
    if beat is not None:
        with closing(beat):
            beat.end(reason)


def _kill(worker: psutil.Process | None) -> None:
    with suppress(psutil.Error):
        if worker is not None:
            worker.kill()


def _clean_up(target: BeatTarget, lease_seconds: float) -> None:
    """The worker died: end its tasks' processes first, then let others have the tasks."""
    give_up = boot_time() + lease_seconds  # by then others see for themselves
    while boot_time() < give_up:
        try:
            kill_marked("ENGINE_SESSION", str(target.session_id))
            _end_session(target, "worker died")
            return
        except OSError:
            pass
        except Exception as error:  # the next try may go better, and without it the tasks wait for the lease
            emit("guardian.failed", level="error", session=target.session_id, error=repr(error))
        time.sleep(_LOOK_SECONDS)


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, flush=True)


def order_line(target: BeatTarget, beat_seconds: float, lease_seconds: float) -> bytes:
    """The line a worker sends to its guardian. Through a pipe: it may hold a database password."""
    fields: dict[str, Any] = {
        "session_id": target.session_id,
        "postgres": target.postgres,
        "sqlite": target.sqlite,
    }
    order = {"target": fields, "beat_seconds": beat_seconds, "lease_seconds": lease_seconds}
    return json.dumps(order).encode() + b"\n"


if __name__ == "__main__":
    main()
