"""Where victims come from: one process that forks them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.crash.victim import KILLED

ROOT = Path(__file__).resolve().parents[2]


class Nursery:
    """Raises victims quickly."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.victim"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def kill_at(self, url: str, number: int, scenario: str) -> int | None:
        """None if the victim died at that boundary, else the number of boundaries that it passed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{url} {number} {scenario}\n")
        self._process.stdin.flush()
        code, count = self._process.stdout.readline().split()
        assert int(code) in (0, KILLED), "the victim failed before it was killed"
        return None if int(code) == KILLED else int(count)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
