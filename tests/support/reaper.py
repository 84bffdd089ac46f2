"""Ends a folder when its owner has ended: kills what runs in it, runs its clean-up commands, removes it.

Started by `folder.Folder` as a process of its own. The owner holds the other end of our standard input and
may send clean-up commands there, a JSON list of arguments a line; the kernel closes it however the owner
ends, SIGKILL included.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PATIENCE_SECONDS = 10.0


def reap(folder: Path) -> None:
    """End everything that runs in `folder`, and the folder."""
    kill_everything_in(folder)
    shutil.rmtree(folder, ignore_errors=True)


def kill_everything_in(folder: Path) -> None:
    """SIGKILL every process whose working directory is in `folder`, until there is none.

    A server that was started there stays there, and so do its children when it is gone.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (found := processes_in(folder)) and time.monotonic() < deadline:
        # Stopped first, so that a parent has no time to replace a child.
        for process in (*map(_stop, found), *found):
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.5)


def processes_in(folder: Path) -> list[psutil.Process]:
    """Living processes at work in `folder`, parents before children."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            is_inside = Path(process.cwd()).is_relative_to(folder)
            if is_inside and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return sorted(found, key=lambda process: process.create_time())


def _stop(process: psutil.Process) -> psutil.Process:
    with contextlib.suppress(psutil.Error):
        process.suspend()
    return process


def main() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    cleanup: list[list[str]] = []
    try:
        for line in sys.stdin:
            cleanup.append(json.loads(line))
    finally:
        kill_everything_in(Path(sys.argv[1]))
        for command in reversed(cleanup):
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=False)
        reap(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
