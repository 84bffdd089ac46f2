"""A short-named temporary folder for servers, which goes away with everything in it when its owner does."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support import reaper

# A socket's path has at most 107 bytes, and `nobody` must be able to reach the folder: /tmp is both.
ROOT = Path("/tmp")
PREFIX = "task-engine-"
_LOCK = "lock"  # locked as long as owner or reaper live
_STALE_SECONDS = 60


class Folder:
    """Commands started here run as `nobody` if we are root, because servers refuse to be root."""

    def __init__(self, name: str) -> None:
        remove_stale()
        self.path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-", dir=ROOT)).resolve()
        self.user: dict[str, Any] = {}
        lock = _take_lock(self.path)
        assert lock is not None
        try:
            self._reaper = subprocess.Popen(
                [sys.executable, reaper.__file__, str(self.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C and a closed terminal are for the owner
                pass_fds=[lock],
                cwd="/",
            )
        finally:
            os.close(lock)  # the reaper has it now
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.path, nobody.pw_uid, nobody.pw_gid)

    def popen(self, *command: str | Path, log: Path, within: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a server that writes to `log`; `within` goes in front of the command and runs as we do."""
        as_user, prefix = self.user, list(within)
        if within and self.user:
            as_user = {}
            ids = [f"--reuid={self.user['user']}", f"--regid={self.user['group']}", "--clear-groups"]
            prefix += ["setpriv", *ids]
        with log.open("ab") as output:
            return subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                cwd=self.path,
                env=self._environment(),
                **as_user,
            )

    def run(self, *command: str | Path) -> None:
        """Run a command to its end; raises with what it printed if it fails."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.path,
            env=self._environment(),
            check=False,
            **self.user,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}")

    def at_end(self, *command: str) -> None:
        """Have `command` run when the folder goes, after those registered later."""
        assert self._reaper.stdin is not None
        self._reaper.stdin.write(json.dumps(command).encode() + b"\n")
        self._reaper.stdin.flush()

    def kill(self) -> None:
        """SIGKILL everything that runs in the folder, at once."""
        reaper.kill_everything_in(self.path)

    def close(self) -> None:
        assert self._reaper.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._reaper.stdin.close()
        self._reaper.wait()

    def _environment(self) -> Mapping[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        return {**kept, "LC_ALL": "C", "TZ": "UTC", "HOME": str(self.path)}


def remove_stale() -> None:
    """Remove folders whose owner and reaper were both killed, as a machine's out-of-memory killer does."""
    for path in ROOT.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS and (lock := _take_lock(path)) is not None:
                reaper.reap(path)
                os.close(lock)


def _take_lock(path: Path) -> int | None:
    """The folder's lock as a descriptor, None if somebody has it."""
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def copy_readable(source: Path, target: Path) -> None:
    """Copy a folder so that every user can enter it."""
    shutil.copytree(source, target, symlinks=True)
    for root, _, _ in os.walk(target):
        os.chmod(root, 0o755)
