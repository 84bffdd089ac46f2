"""A project of somebody who has installed the package: its tests, run by a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_OPTIONS = ("-q", "-W", "error", "-p", "engine.testing.plugin")


def run_tests(folder: Path, text: str, **environment: str) -> str:
    """Write `text` as a module of tests into `folder` and run it. Returns the output; fails if a test did."""
    (folder / "test_project.py").write_text(text)
    own = ("PYTEST_", "TASK_ENGINE_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *_OPTIONS, "test_project.py"],
        cwd=folder,
        env={
            **kept,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # it may be installed with or without its entry point
            "PYTHONPATH": str(_ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
