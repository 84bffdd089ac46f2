"""Finding and killing the processes of an attempt or of a worker session, by an environment variable.

Every process we start carries markers in its environment, and children inherit them: so leftovers are
found even when they have left their process group and their parents are gone. Imports only the standard
library and psutil, because the worker's guardian process uses it too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

KILL_SECONDS = 10.0  # a process in uninterruptible sleep may outlast it; nobody can do more about that


def kill_marked(variable: str, value: str) -> int:
    """Kill every process of this user whose environment says `variable=value`; return how many.

    Repeats until a whole scan finds none, because a process can fork while it is looked for. Spares the
    caller and its ancestors.
    """
    killed: set[int] = set()
    give_up = time.monotonic() + KILL_SECONDS
    while found := find_marked(variable, value):
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
                killed.add(process.pid)
        if time.monotonic() > give_up:
            break
        time.sleep(0.005)  # psutil could wait for them, but it would reap our own children with that
    return len(killed)


def find_marked(variable: str, value: str) -> list[psutil.Process]:
    """Processes of this user, other than the caller and its ancestors, that carry the variable."""
    spared = _lineage()
    found = []
    for pid in psutil.pids():
        if pid in spared or not _carries(pid, variable, value):
            continue
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            # Looked at again now that psutil has noted the start time: the number may have changed hands.
            if _carries(pid, variable, value):
                found.append(process)
    return found


def _lineage() -> set[int]:
    """Ours and our ancestors' process ids, as far up as they live: the first may be dying just now."""
    process: psutil.Process | None = psutil.Process()
    lineage = set()
    with contextlib.suppress(psutil.Error):
        while process is not None:
            lineage.add(process.pid)
            process = process.parent()
    return lineage


def find_writers(readers: Iterable[int]) -> list[psutil.Process]:
    """Processes of this user that hold the other end of one of our pipes (Linux; elsewhere none).

    Spares our children: one that was forked without an exec has copies of whatever we had open.
    """
    if not sys.platform.startswith("linux"):
        return []
    links = {f"pipe:[{os.fstat(reader).st_ino}]" for reader in readers}
    found = []
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            process = psutil.Process(pid)
            if pid != os.getpid() and _writes_to(pid, links) and process.ppid() != os.getpid():
                found.append(process)
    return found


def _writes_to(pid: int, links: set[str]) -> bool:
    folder = Path(f"/proc/{pid}")
    if folder.stat().st_uid != os.geteuid():
        return False
    for name in os.listdir(folder / "fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(folder / "fd" / name) in links:
                flags = (folder / "fdinfo" / name).read_text().split("flags:")[1].split()[0]
                return int(flags, 8) & os.O_ACCMODE == os.O_WRONLY
    return False


def descendants(pid: int) -> list[psutil.Process]:
    """Children, grandchildren and so on that are still connected to `pid` by living parents."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def signal_group(leader: int, number: int) -> None:
    """Signal the process group. Safe only while `leader` has not been reaped."""
    # macOS answers EPERM for a group in which only zombies are left.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def signal_each(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def has_exited(pid: int) -> bool:
    """Whether our child has ended. It is not reaped, so its number cannot pass to a stranger yet."""
    if hasattr(os, "waitid"):  # macOS has it from Python 3.13 on
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def _carries(pid: int, variable: str, value: str) -> bool:
    try:
        if sys.platform.startswith("linux"):
            # psutil would parse the whole environment; with thousands of processes that is felt.
            folder = Path(f"/proc/{pid}")
            if folder.stat().st_uid != os.geteuid():
                return False
            return f"\0{variable}={value}\0".encode() in b"\0" + (folder / "environ").read_bytes()
        process = psutil.Process(pid)
        return process.uids().effective == os.geteuid() and process.environ().get(variable) == value
    except (OSError, psutil.Error):
        return False
