"""Keeps tasks from reading, in `/proc`, what their worker was started with: they run as the same user.

What a task of that user can still read: files (a settings file, `~/.pgpass`), and the environments of
processes that are not ours, such as the shell that started us. Root reads everything in memory as well.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from pathlib import Path

_PR_SET_DUMPABLE = 4
_ARGUMENTS_AND_ENVIRONMENT = slice(45, 49)  # in /proc/self/stat behind the name: two starts and ends


def hide_secrets(secrets: Iterable[str]) -> None:
    """Blank `secrets` in our arguments and environment as others see them, and close our memory to them.

    Variables whose whole value is one of them are dropped, so that processes we start do not inherit them.
    Does nothing where there is no `/proc`.
    """
    if not sys.platform.startswith("linux"):
        return
    wanted = [secret for secret in secrets if secret]
    for name in [name for name, value in os.environ.items() if value in wanted]:
        del os.environ[name]
    _blank([os.fsencode(secret) for secret in wanted])
    # No core dumps either: they would hold the secrets. An exec undoes it, so tasks are as they were.
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _blank(secrets: list[bytes]) -> None:
    fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()
    bounds = [int(field) for field in fields[_ARGUMENTS_AND_ENVIRONMENT]]
    for start, end in (bounds[:2], bounds[2:]):
        block = ctypes.string_at(start, end - start) if start else b""
        for secret in secrets:
            place = block.find(secret)
            while place >= 0:
                ctypes.memset(start + place, ord("*"), len(secret))
                place = block.find(secret, place + len(secret))
