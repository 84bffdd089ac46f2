"""A small process beside each worker: beats for its session, and cleans up when the worker is gone.

It shares no interpreter lock, event loop, thread or connection with tasks, so nothing a task does can
starve the heartbeat. It stops beating when the worker is dead or stopped by a signal.

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
import time
from contextlib import suppress
from typing import Any

import psutil

from engine.executors.processes import kill_marked
from engine.store.beat import Beat, BeatTarget

_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while the machine sleeps


def boot_time() -> float:
    return time.clock_gettime(_BOOT)


def main() -> None:
    # A Ctrl-C in the terminal reaches the whole group; only the worker decides when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    order = json.loads(sys.stdin.buffer.readline())
    target = BeatTarget(**order["target"])
    guard(target, beat_seconds=order["beat_seconds"], worker=psutil.Process(os.getppid()))


def guard(target: BeatTarget, *, beat_seconds: float, worker: psutil.Process) -> None:
    beat: Beat | None = None
    while True:
        if _is_running(worker):
            beat = _beat(target, beat)
        readable, _, _ = select.select([sys.stdin], [], [], beat_seconds)
        if readable:
            if sys.stdin.buffer.readline().strip() != b"bye":
                _clean_up(target, beat)
            break
    if beat is not None:
        beat.close()


def _beat(target: BeatTarget, beat: Beat | None) -> Beat | None:
    sent = boot_time()
    try:
        beat = beat or target.open()
        alive = beat.send() if beat is not None else True
    except OSError:
        return beat  # unknown: the worker watches the time of the last good beat
    _say(f"beat {sent}" if alive else "lost")
    return beat


def _is_running(worker: psutil.Process) -> bool:
    try:
        return worker.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def _clean_up(target: BeatTarget, beat: Beat | None) -> None:
    """The worker died: end its tasks' processes first, then let others have the tasks."""
    kill_marked("ENGINE_SESSION", str(target.session_id))
    with suppress(OSError):
        beat = beat or target.open()
        if beat is not None:
            beat.end("worker died")


def _say(line: str) -> None:
    with suppress(OSError):
        print(line, flush=True)


def order_line(target: BeatTarget, beat_seconds: float) -> bytes:
    """The line a worker sends to its guardian. Through a pipe: it may hold a database password."""
    fields: dict[str, Any] = {
        "session_id": target.session_id,
        "postgres": target.postgres,
        "sqlite": target.sqlite,
    }
    return json.dumps({"target": fields, "beat_seconds": beat_seconds}).encode() + b"\n"


if __name__ == "__main__":
    main()
